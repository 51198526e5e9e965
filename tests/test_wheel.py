"""An installed wheel, used outside of the project: it brings the recipes and everything that planning needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.places import PROJECT

pytestmark = pytest.mark.slow

PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "megatron_octo", "recipes")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside ``site``, where the files of the wheel are."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        source, target = PROJECT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, folder / "source"], check=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    shutil.rmtree(folder / "source")
    (folder / "elsewhere").mkdir()
    return folder / "elsewhere"


def octo(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder.parent / "site")}
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plan_is_the_projects(elsewhere: Path) -> None:
    words = ["megatron_octo.plan", "recipes/santacoderpack.yaml", "--nodes", "4"]
    said = octo(elsewhere, *words)
    here = subprocess.run([sys.executable, "-m", *words], cwd=PROJECT, text=True, capture_output=True)
    assert said == here.stdout and "measured steps" in said


def test_commands_run_from_the_wheel(elsewhere: Path) -> None:
    assert "usage:" in octo(elsewhere, "megatron_octo.train", "--help")
    assert octo(elsewhere, "megatron_octo.cluster.script").count("srun --distribution") == 1
    code = "import megatron_octo, pathlib; print(pathlib.Path(megatron_octo.__file__).parent)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(elsewhere.parent / "site")},
        text=True,
        capture_output=True,
        check=True,
    )
    package = Path(done.stdout.strip())
    assert package == elsewhere.parent / "site" / "megatron_octo"
    assert {path.name for path in (package / "recipes").iterdir()} == {
        path.name for path in (PROJECT / "recipes").iterdir()
    }
