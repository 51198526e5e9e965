"""The scripts of jobs, run by bash with stand-ins for SLURM's commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.script import script
from megatron_octo.cluster.stages import Order
from megatron_octo.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "starcoderbase_finetune.yaml"
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder to submit from, where the library is being edited, and a ``bin`` with the stand-ins."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho n1\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    write_library(tmp_path, "edited")
    return tmp_path


def write_library(folder: Path, name: str) -> None:
    """Commands that only say whose they are."""
    for module in ("train", "convert", "cluster.guard"):
        path = folder / "megatron_octo" / (module.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(f"import sys\nprint('{name}', {module!r}, *sys.argv[1:2])\n")


def an_order(desk: Path, **profile: object) -> Order:
    recipe = load_recipe(RECIPE, ["run_dir=runs/a"])
    return Order(recipe, Profile.model_validate(profile), ("train", "convert"), desk, sys.executable)


def run(desk: Path, text: str, **variables: str) -> str:
    """What the script says, its guard on stderr, too."""
    variables = {"PATH": f"{desk}/bin:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n1", **variables}
    done = subprocess.run(["bash", "-c", text], env=variables, cwd="/", text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("profile", [{}, {"environment": {"PYTHONPATH": "."}}])
def test_jobs_run_the_code_that_was_submitted(desk: Path, profile: dict[str, object]) -> None:
    """Not that of the folder that they run in, though ``python -m`` looks there first."""
    order = an_order(desk, **profile)
    write_library(order.run / "submit" / "code", "submitted")
    text = script("train", order).replace("[ -n", 'echo "$MASTER_PORT"; [ -n')
    assert run(desk, text).splitlines() == [
        "submitted cluster.guard before",
        f"submitted train {order.recipe_file}",
        "submitted cluster.guard after",
    ]
    assert run(desk, script("convert", order)).startswith("submitted convert to-hf")
