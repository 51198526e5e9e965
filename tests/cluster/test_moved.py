"""Runs that were moved or copied after they were submitted, with stand-ins for SLURM's commands."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_octo import submit
from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import snapshot
from megatron_octo.cluster.profile import Profile
from megatron_octo.cluster.script import jobs_of
from megatron_octo.cluster.stages import Order
from megatron_octo.cluster.status import status_of
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, dump_recipe
from tests.cluster.conftest import Answers
from tests.conftest import recipe_tree

ECHO = "import sys\nprint({name!r}, *sys.argv[1:])\n"


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """A run that was submitted as ``runs/a``, whose library only prints its arguments."""
    recipe = build_recipe(recipe_tree(tmp_path / "corpus", Path("runs/a")))
    order = Order(recipe, Profile(gpus_per_node=1), ("train", "convert"), tmp_path, "python3")
    (order.run / "submit/logs").mkdir(parents=True)
    (order.run / "submit/recipe.yaml").write_text(dump_recipe(recipe))
    (order.run / "submit/order.json").write_text(json.dumps(snapshot.order_record(order)))
    for job in jobs_of(order):
        job.script.write_text(job.text)
    for name in ("train", "convert", "cluster/job_guard"):
        path = order.run / "submit/code/megatron_octo" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(ECHO.format(name=name))
    return order


def start(script: Path, folder: Path) -> str:
    """Run a script as a job whose file SLURM knows; returns its log."""
    (folder / "bin").mkdir(exist_ok=True)
    texts = {
        "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": f"echo {shlex.quote(f'  Command={script}')}",
    }
    for name, text in texts.items():
        (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-s"], input=script.read_text(), env=job, cwd="/", text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    run = script.parent.parent if script.parent.name == "submit" else script.parent
    (log,) = (run / "submit/logs").iterdir()
    text = log.read_text()
    log.unlink()
    return text


@pytest.mark.parametrize("name", ["runs/a", "runs/b", "else where/it's $HOME #1", 'runs/"x" \\\\ y'])
def test_a_script_works_where_it_lies(name: str, order: Order, tmp_path: Path) -> None:
    run = tmp_path / name
    if run != order.run:
        run.parent.mkdir(exist_ok=True)
        order.run.rename(run)
    said = start(run / "submit.sh", tmp_path)
    words = f"{run}/submit/recipe.yaml" + (f" run_dir={json.dumps(str(run))}" if run != order.run else "")
    assert f"train {words}\n" in said and f"cluster/job_guard before {words} --max" in said
    assert f"convert to-hf {run} {run}/hf --renew\n" in start(run / "submit/convert.sh", tmp_path)
    for path in (run / "submit.sh", run / "submit/convert.sh"):
        assert str(order.run) not in path.read_text() and str(run) not in path.read_text()


def test_resume_submits_the_scripts_of_the_new_place(order: Order, tmp_path: Path, answers: Answers) -> None:
    run = tmp_path / "runs/b%j"
    order.run.rename(run)
    answers(sbatch="Submitted batch job 12")
    assert submit.main(["resume", str(run)]) == 0
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if line.startswith("sbatch ")]
    assert asked[0] == f"sbatch --output={run.parent}/b%%j/submit/logs/train-%j.log {run}/submit.sh"
    assert asked[1].endswith(f"{run}/submit/convert.sh")
    assert [record["job"] for record in snapshot.read_jobs(run)] == ["12", "12"]


def test_resume_refuses_scripts_that_name_the_former_place(order: Order, tmp_path: Path, answers: Answers) -> None:
    """Those of former versions."""
    text = f"#!/usr/bin/env bash\nrecipe={order.run}/submit/recipe.yaml\n"
    (order.run / "submit.sh").write_text(text)
    answers(sbatch="Submitted batch job 12")
    assert submit.main(["resume", str(order.run)]) == 0
    order.run.rename(tmp_path / "b")
    with pytest.raises(OctoError, match="was moved or copied"):
        submit.main(["resume", str(tmp_path / "b")])


def test_resume_refuses_when_the_folder_of_the_submission_is_gone(
    order: Order, tmp_path: Path, answers: Answers
) -> None:
    record = json.loads((order.run / "submit/order.json").read_text())
    (order.run / "submit/order.json").write_text(json.dumps({**record, "folder": str(tmp_path / "gone")}))
    answers(sbatch="Submitted batch job 12")
    with pytest.raises(OctoError, match="the folder that this run was submitted from is not there"):
        submit.main(["resume", str(order.run)])
    assert not (tmp_path / "asked").exists()


def test_the_jobs_of_the_original_are_not_those_of_a_copy(
    order: Order, tmp_path: Path, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot.write_job(order.run, "train", "7", None)
    ledger.write_start(order.run, ledger.Start("7", 0, 1e9, ("n1",), 0))
    copy = tmp_path / "runs/copy"
    shutil.copytree(order.run, copy)
    answers(squeue=f"7|7|RUNNING|None|n1|{order.run}/submit.sh\n", sbatch="Submitted batch job 12")
    assert status_of(order.run).state == "running" and status_of(copy).state != "running"
    assert submit.main(["cancel", str(copy)]) == 0
    assert "scancel" not in (tmp_path / "asked").read_text()
    assert submit.main(["resume", str(copy)]) == 0
    assert submit.main(["cancel", str(order.run)]) == 0
    assert "scancel 7\n" in (tmp_path / "asked").read_text()
    capsys.readouterr()


def test_slurms_own_reason_and_exit_code_are_shown(
    order: Order, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage, job in (("preprocess", "5"), ("train", "6"), ("convert", "7"), ("verify", "8")):
        snapshot.write_job(order.run, stage, job, None)
    answers(
        sacct="5|FAILED|1|2|n1|3:0|NonZeroExitCode\n6|OUT_OF_MEMORY|1|2|n1|0:9|None\n7|CANCELLED by 1000|1|2|n1|0:0|\n",
        squeue="8|8|PENDING|Dependency||x\n",
    )
    assert submit.main(["status", str(order.run)]) == 0
    said = capsys.readouterr().out
    for words in (
        "job 5  FAILED (exit code 3, NonZeroExitCode)",
        "job 6  OUT_OF_MEMORY (signal 9)",
        "job 7  CANCELLED (CANCELLED by 1000)",
        "job 8  PENDING (Dependency)",
    ):
        assert words in said
