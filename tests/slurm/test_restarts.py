"""When a training is started again and when not, and what sbatch refuses: small jobs of one rank."""

from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster, ask, wait_for
from tests.slurm.jobs import SlurmRun, make_data, make_desk, octo, slow, write_profile

ONE = ("--cluster", "one")


@pytest.fixture(scope="module")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = make_desk(tmp_path_factory.mktemp("desk"))
    make_data(desk)
    write_profile(desk, "one", nodes=1)
    return desk


def start(desk: Path, name: str, fault: str, *words: str, most: int = 3) -> SlurmRun:
    write_profile(desk, "one", nodes=1, max_restarts=most, environment={"OCTO_FAULT": fault})
    run = SlurmRun(desk, name)
    run.submit(*ONE, *words)
    return run


def test_a_node_that_fails_twice_is_left_out_and_a_mistake_stops_the_chain(cluster: Cluster, desk: Path) -> None:
    """Two runs at once, one core each. The first fails on its node at steps 20 and 40, and goes on on the other one."""
    failing = start(desk, "failing", "rank=0,step=20,kind=exception,attempt=1;rank=0,step=40,kind=exception,attempt=2")
    mistaken = start(desk, "mistaken", "rank=0,step=5,kind=mistake,attempt=*", "--stages", "train,convert,verify")
    cluster.wait(mistaken.job, "FAILED", "COMPLETED")
    status = wait_for("end of the chain", lambda: mistaken.over() and mistaken.status())
    assert status["state"] == "failed"
    assert [row["reason"] for row in status["rows"]] == ["error"]
    assert "a mistake on purpose" in status["rows"][0]["detail"]
    assert [stage["state"] for stage in status["stages"]] == ["FAILED", "CANCELLED", "CANCELLED"]
    assert "an error that a restart does not fix" in mistaken.log()

    cluster.wait(failing.job, "COMPLETED", "FAILED", seconds=240)
    rows = failing.status()["rows"]
    assert [row["reason"] for row in rows] == ["error", "error", "finished"], failing.log()
    (first,), (second,), (third,) = (row["nodes"] for row in rows)
    assert first == second != third
    assert f"queueing job {failing.job} again, without {first}" in failing.log()


def test_it_gives_up_without_progress_and_resumes_when_told_to(cluster: Cluster, desk: Path) -> None:
    run = start(desk, "stuck", ";".join(f"rank=0,step=3,kind=exit,attempt={n}" for n in (1, 2)), most=1)
    cluster.wait(run.job, "FAILED", "COMPLETED", seconds=240)
    wait_for("accounting", run.over)
    status = run.status()
    assert (status["state"], len(status["rows"])) == ("failed", 2)
    assert "giving up: 2 starts in a row brought no new checkpoint" in run.log()
    octo("megatron_octo.submit", "resume", run.name, folder=desk)
    busy = octo("megatron_octo.submit", "resume", run.name, folder=desk, code=2)
    assert "this run has jobs already: train" in busy
    wait_for("finished", lambda: run.status()["state"] == "finished", 120)
    assert [row["attempt"] for row in run.status()["rows"]] == [1, 2, 3]
    listed = octo("megatron_octo.submit", "list", folder=desk)
    assert "runs/stuck" in listed and "finished   step 120 of 120" in listed


def test_cancel(cluster: Cluster, desk: Path) -> None:
    run = start(desk, "long", slow(1, 0.5), "--stages", "train,convert")
    step = run.wait_for_step(2, attempt=1)
    status = run.status()
    assert (status["state"], status["rows"][0]["reason"]) == ("running", "running")
    assert status["seconds_left"] > 20, "half a second for each step that is left"
    assert " left" in octo("megatron_octo.submit", "status", run.name, folder=desk)
    said = octo("megatron_octo.submit", "cancel", run.name, folder=desk)
    assert [line.split(":")[0] for line in said.splitlines()] == ["convert", "train"]
    wait_for("accounting", lambda: run.status()["state"] == "cancelled", 60)
    assert run.status()["saved"] >= step, "it saved before it went"
    assert [row["reason"] for row in run.status()["rows"]] == ["cancelled"]
    wait_for("the end", lambda: cluster.state(run.job) == "CANCELLED", 60)  # and it is not queued again
    assert "no job of this run" in octo("megatron_octo.submit", "cancel", run.name, folder=desk)


def refused(desk: Path, *words: str) -> str:
    return octo("megatron_octo.submit", "recipe.yaml", "run_dir=runs/new", *ONE, *words, folder=desk, code=2)


def test_what_sbatch_refuses_is_explained(cluster: Cluster, desk: Path) -> None:
    said = refused(desk, "--partition", "gpu")
    assert "sbatch: error: invalid partition specified: gpu" in said and "the partitions here: main, urgent" in said
    said = refused(desk, "--account", "nobody")
    assert "Invalid account or account/partition combination specified" in said and "your accounts: " in said
    assert "tests" in said
    assert "Invalid qos specification" in refused(desk, "--qos", "best")
    assert "Invalid feature specification" in refused(desk, "--constraint", "h100")
    said = refused(desk, "--gpus-per-node", "16", "batch.global_size=32")
    assert "Requested node configuration is not available" in said and "no node has what is asked for" in said
    said = refused(desk, "--exclude", "node9")
    assert "sbatch: error" in said
    assert ask("squeue", "--noheader") == ""
    assert not (desk / "runs/new").exists(), "what was refused leaves nothing"


def test_half_a_chain_does_not_run(cluster: Cluster, desk: Path) -> None:
    write_profile(desk, "one", nodes=1, stages={"convert": {"partition": "nowhere"}})
    said = refused(desk, "--stages", "train,convert")
    assert "invalid partition specified: nowhere" in said
    wait_for("empty queue", lambda: not ask("squeue", "--noheader"), 20)


def test_local_runs_the_same_stages(desk: Path) -> None:
    words = ("run_dir=runs/local", "--cluster", "local", "--stages", "train,convert,verify", "train.steps=20")
    said = octo("megatron_octo.submit", "recipe.yaml", *words, folder=desk)
    assert "weights bit-equal" in said
    run = SlurmRun(desk, "local")
    assert run.status()["state"] == "finished"
    assert [row["job"] for row in run.status()["rows"]] == [None]
