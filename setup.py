"""Everything is declared in pyproject.toml, except that the recipes are copied into a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Puts ``recipes/`` beside the modules; an editable installation reads them from the project."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "megatron_octo" / "recipes"
            shutil.copytree(Path(__file__).parent / "recipes", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithRecipes})
