"""What SLURM's answers mean for a run. The answers are those of the commands, from stand-ins on the PATH."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_octo import submit
from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import queue, snapshot
from megatron_octo.cluster.job_guard import Guard
from megatron_octo.cluster.job_starts import Start
from megatron_octo.cluster.status import status_of
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, dump_recipe
from megatron_octo.runfiles import attempts as records
from tests.cluster.conftest import Answers
from tests.conftest import recipe_tree

NOW = int(time.time())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, "a")


def make_run(folder: Path, name: str) -> Path:
    run = folder / "runs" / name
    (run / "submit").mkdir(parents=True)
    (run / records.ATTEMPTS).mkdir()
    recipe = build_recipe(recipe_tree(folder / "corpus", run, train={"steps": 40}))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return run


def row(job: str, state: str, start: int | None, end: int | None = None) -> str:
    return f"{job}|{state}|{start or 'Unknown'}|{end or 'Unknown'}|n1|0:0\n"


def begin(run: Path, job: str, restart: int) -> Start:
    start = Start(job, restart, NOW - 100 + 10 * restart, ("n1",), 0)
    ledger.write_start(run, start)
    return start


@pytest.mark.parametrize(
    ("stage", "rows", "state"),
    [
        ("convert", [("7", "NODE_FAIL"), ("7", "COMPLETED")], "COMPLETED"),
        ("convert", [("7", "COMPLETED"), ("7", "FAILED")], "FAILED"),
        ("train", [("7", "PREEMPTED"), ("7", "COMPLETED")], "COMPLETED"),
        ("preprocess", [("7_0", "NODE_FAIL"), ("7_1", "COMPLETED"), ("7_0", "COMPLETED")], "COMPLETED"),
        ("preprocess", [("7_0", "COMPLETED"), ("7_1", "NODE_FAIL"), ("7_1", "FAILED")], "FAILED"),
        ("preprocess", [("7_0", "FAILED"), ("7_1", "CANCELLED by 0"), ("7_2", "COMPLETED")], "FAILED"),
        ("preprocess", [("7_0", "FAILED"), ("7_[1-2]", "PENDING")], "PENDING"),
    ],
)
def test_a_stage_is_as_good_as_the_last_start_of_its_worst_task(
    stage: str, rows: list[tuple[str, str]], state: str, run: Path, answers: Answers
) -> None:
    snapshot.write_job(run, stage, "7", None)
    answers(sacct="".join(row(job, said, NOW + number) for number, (job, said) in enumerate(rows)))
    assert [(each.stage, each.state) for each in status_of(run).stages] == [(stage, state)]


def test_resume_leaves_out_what_a_restart_finished(
    run: Path, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot.write_job(run, "convert", "7", None)
    (run / "submit/order.json").write_text('{"stages": ["convert"], "array": null}')
    answers(sacct=row("7", "NODE_FAIL", NOW, NOW + 1) + row("7", "COMPLETED", NOW + 2, NOW + 3))
    assert submit.main(["resume", str(run)]) == 0
    assert "is done: convert" in capsys.readouterr().out


def test_restarts_are_capped_without_accounting(
    run: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody says how a start ended whose node was lost, but that SLURM started the job again."""
    answers(sacct=None, scontrol="JobState=RUNNING\n")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    codes = []
    for restart in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        codes.append(Guard(run, 40, most=1).before())
    assert codes == [0, 0, 76]
    assert "giving up: 2 starts in a row brought no new checkpoint" in capfd.readouterr().err
    assert [start.reason for start in ledger.read_starts(run)] == [ledger.NO_WORD] * 2


def test_what_runs_no_more_has_ended(run: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without accounting: by a later start of the job, or because SLURM has no such job; the attempt says why."""
    answers(sacct=None, squeue="8|8|RUNNING|None|n1|/x.sh\n")
    for job, restart in (("6", 0), ("7", 0), ("7", 1), ("8", 0)):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        start = begin(run, job, restart)
        if (job, restart) in (("7", 0), ("8", 0)):
            number = int(job)
            records.begin_attempt(run, number, world=1, started=start.time + 1)
            records.write_error(run, attempt=number, rank=0, kind="hang", step=1, phase="x", what="stuck", traceback="")
    records.end_attempt(run, 7, reason="hang", exit_code=76, last_step=1)
    rows = {(each.job, each.started): each.reason for each in status_of(run).rows}
    assert list(rows.values()) == [ledger.NO_WORD, "hang", "running", ledger.NO_WORD]
    starts = ledger.with_ends(run, ledger.read_starts(run), [], {"8"})
    assert [ledger.fruitless(starts, job) for job in "678"] == [1, 2, 0]


def test_the_accounting_may_lag_behind_the_next_start(run: Path, answers: Answers) -> None:
    first, now = begin(run, "7", 0), Start("7", 1, NOW, ("n1",), 0)
    answers(sacct=row("7", "RUNNING", NOW - 101))
    assert ledger.with_ends(run, [first], begins=now) == [first]
    answers(sacct=row("7", "NODE_FAIL", NOW - 101, NOW - 50))
    assert [each.reason for each in ledger.with_ends(run, [first], begins=now)] == [ledger.NODE_FAILURE]


def test_jobs_by_hand_are_the_runs_jobs(
    run: Path, answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given to sbatch by a person: one that trains, and one that waits and has left no record yet."""
    begin(run, "7", 0)
    answers(
        squeue=f"7|7|RUNNING|None|n1|/home/me/slurm/finetune.sh\n8|8|PENDING|Priority||{run}/submit.sh\n"
        f"9|9|RUNNING|None|n1|{run}x/submit.sh\n10|10|RUNNING|None|n1|(null)\n"
    )
    with pytest.raises(OctoError, match="has jobs already: train 7, train 8\n"):
        queue.check_idle(run)
    assert submit.main(["cancel", str(run)]) == 0
    assert capsys.readouterr().out == "train: job 8 cancelled\ntrain: job 7 cancelled\n"
    assert "scancel 7\n" in (tmp_path / "asked").read_text()


def test_a_local_run_does_not_touch_what_jobs_wait_with(
    run: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parents[1])
    snapshot.write_job(run, "train", "7", None)
    answers(squeue="7|7|PENDING|Priority||x\n")
    with pytest.raises(OctoError, match="has jobs already: train 7"):
        submit.main([str(run / "recipe.yaml"), "--cluster", "local"])
    assert not (run / "submit/code").exists()


def test_a_controller_that_is_away_hides_nothing(
    run: Path, answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot.write_job(run, "train", "7", None)
    ledger.write_end(run, replace(begin(run, "7", 0), ended=NOW, reason="hang", saved_after=0, code=76))
    answers(squeue=None, sacct=None)
    assert submit.main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "SLURM     does not answer (squeue: squeue is away)" in said and "hang" in said
    assert submit.main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def test_a_list_asks_once(run: Path, answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, job in (("a", "7"), ("b", "8")):
        snapshot.write_job(run if name == "a" else make_run(tmp_path, name), "convert", job, None)
    answers(sacct=row("7", "FAILED", NOW, NOW + 1) + row("8", "COMPLETED", NOW, NOW + 1))
    assert submit.main(["list", str(run.parent)]) == 0
    said = capsys.readouterr().out
    assert "convert FAILED" in said and "convert COMPLETED" in said
    asked = (tmp_path / "asked").read_text().split("\n")
    assert sorted(line.split()[0] for line in asked if line) == ["sacct", "squeue"]


@pytest.mark.parametrize("reason", ["guard", "hang", "lost rank", "replicas differ", "preflight", "error"])
def test_failures_are_called_so(reason: str, run: Path) -> None:
    records.begin_attempt(run, 1, world=1)
    records.end_attempt(run, 1, reason=reason, exit_code=76, last_step=1)
    assert status_of(run).state == "failed"


class TestABadNode:
    """n1 failed twice."""

    @pytest.fixture
    def guard(self, run: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Guard:
        for number in range(2):
            start = Start("5", number, NOW - 50 + number, ("n1",), 0)
            ledger.write_start(run, start)
            ledger.write_end(run, replace(start, ended=NOW, reason="hang", failed_nodes=("n1",)))
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
        monkeypatch.setattr("megatron_octo.cluster.job_guard._GOING", 0.0)
        answers(scontrol="JobState=RUNNING Partition=main NumNodes=1\n", sinfo="n1\nn2\n")
        return Guard(run, 40, most=3)

    def test_is_left_once(
        self, run: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """SLURM may not leave the node out: then the job starts on it, and is not queued for ever."""
        assert guard.before() == 75
        assert ledger.read_starts(run)[-1].reason == ledger.BAD_NODE
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert Guard(run, 40, most=3).before() == 0
        said = capfd.readouterr()
        assert "starting here all the same" in said.err and said.out.strip().isdigit()

    def test_is_not_left_when_slurm_does_not_say_what_else_there_is(self, guard: Guard, answers: Answers) -> None:
        answers(sinfo=None)
        assert guard.before() == 0


def test_a_signal_long_before_the_limit_is_the_limits(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    fields = {"EndTime": str(int(time.time()) + 580)}
    assert Guard(run, 40, 3, signal_seconds=600)._asked(None, fields) == ledger.TIME_LIMIT
    assert Guard(run, 40, 3)._asked(None, fields) == "signal"
