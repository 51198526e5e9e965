"""Four stages in a chain, and what happens to a run on its way: it ends bit-equal to one that was left alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.conftest import Cluster, ask, wait_for
from tests.slurm.jobs import STEPS, SlurmRun, assert_bit_equal, make_desk, octo, slow, write_profile

EVALUATION = ("--evaluate", "--prompt octocoder --tasks humanevalfixtests-python --data problems --limit 2 --jobs 1")
DATA = ("--preprocess", "--input pairs.jsonl --format finetune")


@pytest.fixture(scope="module")
def desk(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def undisturbed(desk: Path) -> SlurmRun:
    return SlurmRun(desk, "a")


@contextmanager
def busy_nodes(cluster: Cluster) -> Iterator[None]:
    """Another user's job holds all nodes meanwhile."""
    job = ask("sbatch", "--parsable", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
    try:
        cluster.wait(job, "RUNNING")
        yield
    finally:
        ask("scancel", job)


def stages(run: SlurmRun) -> list[tuple[str, str, str]]:
    return [(stage["stage"], stage["state"], stage["why"]) for stage in run.status()["stages"]]


def test_a_chain_of_five_stages(cluster: Cluster, undisturbed: SlurmRun) -> None:
    run = undisturbed
    with busy_nodes(cluster):  # so that the chain still waits when it is looked at, however slow the looking
        stages_of = ("--stages", "preprocess,train,convert,verify,evaluate")
        jobs = run.submit("--cluster", "test", *stages_of, *DATA, *EVALUATION)
        assert list(jobs) == ["preprocess", "train", "convert", "verify", "evaluate"]
        modes = [folder.stat().st_mode & 0o777 for folder in (run.path, run.path / "submit")]
        assert modes == [0o700, 0o700]
        said = octo("megatron_octo.submit", "recipe.yaml", "--cluster", "test", folder=run.desk, code=2)
        assert f"this run has jobs already: preprocess {jobs['preprocess']}, train {jobs['train']}" in said
        # SLURM finds the reason when it next goes through its queue.
        dependent = ("train", "PENDING", "Dependency")
        wait_for("reason why the training waits", lambda: dependent in stages(run), 30)
        assert run.status()["state"] == "waiting"

    cluster.wait(jobs["evaluate"], "COMPLETED", "FAILED", "CANCELLED", seconds=300)
    status = wait_for("end in the accounting", lambda: run.over() and run.status())
    assert status["state"] == "finished"
    assert [stage["state"] for stage in status["stages"]] == ["COMPLETED"] * 5, run.log()
    assert [row["reason"] for row in status["rows"]] == ["finished"]
    assert json.loads((run.path / "verify.json").read_text())["weights_equal"]
    assert status["scores"].keys() == {"humanevalfixtests-python"}
    told = octo("megatron_octo.submit", "status", run.name, folder=run.desk)
    assert "scores    humanevalfixtests-python  pass@1 " in told
    assert (
        json.loads((run.path / "evaluation/scores.json").read_text())["tasks"]["humanevalfixtests-python"]["problems"]
        == 2
    )
    assert [record["saved"] for record in [status]] == [STEPS]
    # What a person needs to understand the run, and to start it again by hand.
    assert (run.path / "submit/code/megatron_octo/train.py").is_file()
    assert {"recipe.yaml", "order.json", "environment.json", "commit.txt", "diff.patch", "jobs.jsonl"} <= {
        path.name for path in (run.path / "submit").iterdir()
    }
    assert not list(run.path.rglob("*.pkl"))
    assert "is done" in octo("megatron_octo.submit", "resume", run.name, folder=run.desk)
    assert "finished at step" in octo("megatron_octo.submit", "logs", run.name, "--stage", "train", folder=run.desk)


class TestABadDay:
    """One job, and one trouble after another; each is told in ``status``. The tests go on from each other."""

    faults = (
        slow(1, 0.1), slow(2, 0.1), slow(3, 0.1),
        "rank=1,step=60,kind=exception,attempt=4",
        "rank=1,step=70,kind=hang,attempt=5",
        slow(6, 1), slow(7, 0.2),
    )  # fmt: skip

    @pytest.fixture(scope="class")
    def run(self, cluster: Cluster, desk: Path) -> SlurmRun:
        write_profile(desk, "bad", environment={"OCTO_FAULT": ";".join(self.faults)}, signal_seconds=110)
        run = SlurmRun(desk, "b")
        run.submit("--cluster", "bad", "system.timeout_minutes=0.3")
        return run

    def told(self, run: SlurmRun, attempt: int, reason: str) -> dict[str, Any]:
        """The line of an attempt that is over, once the next one runs."""
        run.wait_for_attempt(attempt + 1)
        (row,) = (row for row in run.status()["rows"] if row["attempt"] == attempt)
        assert row["reason"] == reason, (row, run.log())
        return dict(row)

    def test_preemption_by_a_higher_partition(self, cluster: Cluster, run: SlurmRun) -> None:
        run.wait_for_step(3, attempt=1)
        ask("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        row = self.told(run, 1, "preempted")
        assert row["last"] == run.attempts()[0]["saved_step"], "it had the time to save"

    def test_requeue_by_hand(self, cluster: Cluster, run: SlurmRun) -> None:
        run.wait_for_step(1, attempt=2)
        ask("scontrol", "requeue", run.job)
        self.told(run, 2, "requeued")

    def test_a_node_goes_down(self, cluster: Cluster, run: SlurmRun) -> None:
        run.wait_for_step(1, attempt=3)
        cluster.node_down("node2")
        row = self.told(run, 3, "node failure")
        assert row["detail"] == "node2 went down"

    def test_a_failing_rank(self, cluster: Cluster, run: SlurmRun) -> None:
        row = self.told(run, 4, "error")
        assert "rank 1 on node2" in row["detail"] and row["last"] == 59
        assert row["lines"][-1].startswith("RuntimeError: a fault on purpose"), "its last lines are shown"
        assert "| RuntimeError: a fault on purpose" in octo("megatron_octo.submit", "status", run.name, folder=run.desk)

    def test_a_hung_rank(self, cluster: Cluster, run: SlurmRun) -> None:
        row = self.told(run, 5, "hang")
        assert "rank 1 on node2" in row["detail"] and row["last"] == 69

    def test_a_second_job_is_refused_and_disturbs_nothing(self, cluster: Cluster, run: SlurmRun) -> None:
        run.wait_for_step(1, attempt=6)
        second = ask("sbatch", "--parsable", str(run.path / "submit.sh"))
        cluster.wait(second, "FAILED")
        log = (run.path / "submit" / "logs" / f"train-{second}.log").read_text()
        assert "another process trains in this run directory: process" in log and f"job {run.job}, attempt 6" in log
        assert "an error that a restart does not fix" in log
        assert cluster.state(run.job) == "RUNNING"

    def test_time_limit(self, cluster: Cluster, run: SlurmRun) -> None:
        # It was 30 minutes. SLURM looks twice a minute whose time is nearly over, and signals 110 s before.
        ask("scontrol", "update", f"jobid={run.job}", "timelimit=2")
        cluster.wait(run.job, "PENDING", "COMPLETING")
        cluster.wait(run.job, "PENDING")
        ask("scontrol", "update", f"jobid={run.job}", "timelimit=30")
        self.told(run, 6, "time limit")

    def test_power_cut(self, cluster: Cluster, run: SlurmRun) -> None:
        run.wait_for_step(1, attempt=7)
        cluster.cut_power("node2")
        cluster.wait(run.job, "PENDING")
        # SLURM 22.05 miscounts the nodes of a job that it starts in the very moment in which a lost node is back.
        ask("scontrol", "hold", run.job)
        cluster.start()
        ask("scontrol", "release", run.job)
        row = self.told(run, 7, "node failure")
        assert row["detail"] == "node2 went down"

    def test_it_ends_as_if_nothing_had_happened(self, cluster: Cluster, run: SlurmRun, undisturbed: SlurmRun) -> None:
        cluster.wait(run.job, "COMPLETED", "FAILED")
        status = run.status()
        assert status["state"] == "finished"
        reasons = [row["reason"] for row in status["rows"] if row["job"] == run.job]
        assert reasons == [
            "preempted", "requeued", "node failure", "error", "hang", "time limit", "node failure", "finished",
        ]  # fmt: skip
        (refused,) = (row for row in status["rows"] if row["job"] != run.job)
        assert "another process trains in this run directory" in refused["detail"]
        assert_bit_equal(run, undisturbed)
        starts = [attempt["started"] for attempt in run.attempts()]
        ends = [attempt.get("ended", 0) for attempt in run.attempts()]
        assert all(end < start for end, start in zip(ends, starts[1:])), "two attempts trained at once"
        # Submitted again by hand, it says so and does nothing.
        again = ask("sbatch", "--parsable", str(run.path / "submit.sh"))
        cluster.wait(again, "COMPLETED")
        assert len(run.attempts()) == 8
