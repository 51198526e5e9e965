"""Build hooks: metadata is in pyproject.toml; a wheel gets the recipes, an old Python is refused."""

import shutil
import sys
from pathlib import Path

if sys.version_info < (3, 12):
    sys.exit("error: megatron_octo needs Python 3.12 or newer, this is " + sys.version.split()[0])

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Put ``recipes/`` beside the modules; an editable installation reads them from the project."""

    def run(self) -> None:
        """Copy the package, then the recipes."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "megatron_octo" / "recipes"
            shutil.copytree(Path(__file__).parent / "recipes", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithRecipes})
