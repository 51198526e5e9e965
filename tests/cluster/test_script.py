"""The scripts of jobs, run by bash with stand-ins for SLURM's commands, and the stages on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.script import script
from megatron_octo.cluster.stages import Order
from megatron_octo.recipe.loading import load_recipe
from tests.places import PROJECT

RECIPE = PROJECT / "recipes" / "starcoderbase_finetune.yaml"
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
    for module in ("train", "convert", "cluster.job_guard"):
        path = folder / "megatron_octo" / (module.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(f"import sys\nprint('{name}', {module!r}, *sys.argv[1:2])\n")


def an_order(desk: Path, **profile: object) -> Order:
    recipe = load_recipe(RECIPE, ["run_dir=runs/a"])
    return Order(recipe, Profile.model_validate(profile), ("train", "convert"), desk, sys.executable)


def run(desk: Path, text: str, **variables: str) -> str:
    """What is in the job's log afterwards."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
    logs = desk / "runs/a/submit/logs"
    logs.mkdir(parents=True, exist_ok=True)
    variables = {"PATH": f"{desk}/bin:{os.environ['PATH']}", **job, **variables}
    done = subprocess.run(["bash", "-c", text], env=variables, cwd="/", text=True, capture_output=True)
    (log,) = logs.iterdir()
    said = log.read_text()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), said
    log.unlink()
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith(("job 7", '  "')))


@pytest.mark.parametrize("profile", [{}, {"environment": {"PYTHONPATH": "."}}])
def test_jobs_run_the_code_that_was_submitted(desk: Path, profile: dict[str, object]) -> None:
    """Not that of the folder that they run in, though ``python -m`` looks there first."""
    order = an_order(desk, **profile)
    write_library(order.run / "submit" / "code", "submitted")
    text = script("train", order).replace("[ -n", 'echo "$MASTER_PORT"; [ -n')
    assert run(desk, text).splitlines() == [
        "submitted cluster.job_guard before",
        f"submitted train {order.recipe_file}",
        "submitted cluster.job_guard after",
    ]
    assert run(desk, script("convert", order)).startswith("submitted convert to-hf")


LOCAL = """
import sys
from pathlib import Path
from megatron_octo.cluster.local import run_here
from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.stages import Order
from megatron_octo.recipe import load_recipe

recipe, folder = load_recipe(sys.argv[1], ["run_dir=runs/a"]), Path(sys.argv[2])
sys.exit(run_here(Order(recipe, Profile(gpus_per_node=1), ("train", "convert"), folder, sys.executable)))
"""
TRAINING = """
import pathlib, signal, sys, time
begun = pathlib.Path("begun")
begun.write_text(begun.read_text() + "." if begun.exists() else ".")
def save(number, frame):
    time.sleep(1)  # longer than an impatient parent waits
    pathlib.Path("saved").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_local_run_that_is_stopped_saves_and_stays_stopped(desk: Path, number: signal.Signals) -> None:
    """Ctrl-C is a SIGINT to the whole foreground group of the terminal."""
    library = desk / "runs/a/submit/code"
    write_library(library, "submitted")
    (library / "megatron_octo/train.py").write_text(TRAINING)
    words = [sys.executable, "-P", "-c", LOCAL, str(RECIPE), str(desk)]
    ours = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(words, start_new_session=True, text=True, stdout=subprocess.PIPE, env=ours)
    deadline = time.monotonic() + 30
    while not (desk / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (desk / "ready").exists()
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, (desk / "saved").exists()) == (75, True), said
    assert (desk / "begun").read_text() == ".", "it was not started again"
    assert "convert" not in said


def test_scratch_that_cannot_be_made_is_the_guards_matter(desk: Path) -> None:
    """It says so in the records, and queues the job again: before, the job just ended."""
    order = an_order(desk, scratch="/dev/null/scratch")
    write_library(order.run / "submit" / "code", "submitted")
    text = script("train", order).replace("[ -n", 'echo "$MASTER_PORT"; [ -n')
    said = run(desk, text).splitlines()
    said = [line for line in said if "cannot create directory" not in line]
    assert said == ["submitted cluster.job_guard before", "submitted cluster.job_guard after"]
