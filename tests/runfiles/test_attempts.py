"""Attempts and errors on disk, and the clock of a job."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.signals import WallClock, seconds_left, slurm_end


def test_an_attempt_ends_once(tmp_path: Path) -> None:
    (tmp_path / "attempts").mkdir()
    for number in (1, 2):
        records.begin_attempt(tmp_path, number, world=4, recipe={"run_dir": "x"}, environment={})
    for step in (5, 6):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (tmp_path / "checkpoints" / "latest").write_text("step-00000005\n")  # the newer one was abandoned
    records.end_attempt(
        tmp_path,
        1,
        reason=records.HANG,
        exit_code=76,
        last_step=7,
        culprits=(3,),
        detail="late",
    )
    records.end_attempt(tmp_path, 1, reason=records.LOST_RANK, exit_code=76, last_step=7)
    first, second = records.read_attempts(tmp_path)
    assert (first.number, first.reason, first.exit_code, first.last_step) == (1, "hang", 76, 7)
    assert (first.saved_step, first.culprits, first.detail, first.world) == (5, (3,), "late", 4)
    assert first.ended is not None and first.started <= first.ended <= time.time()
    assert (second.number, second.ended, second.reason, second.exit_code) == (2, None, None, None)
    assert records.attempt_recipe(tmp_path, 2) == {"run_dir": "x"}
    assert sorted(path.name for path in (tmp_path / "attempts").iterdir()) == ["001.json", "002.json"]


def test_errors_come_culprits_first(tmp_path: Path) -> None:
    for rank, culprit in ((0, False), (3, True), (1, False)):
        records.write_error(
            tmp_path,
            attempt=2,
            rank=rank,
            kind="hang",
            step=7,
            phase="data",
            what="stuck",
            culprit=culprit,
            traceback="\n".join(map(str, range(1000))),
        )
    assert records.error_path(tmp_path, 2, 3).name == "attempt-002-rank-00003.json"
    assert [record.rank for record in records.read_errors(tmp_path)] == [3, 0, 1]
    assert records.read_errors(tmp_path, 1) == []
    assert records.read_errors(tmp_path, 2)[0].last_lines == ["995", "996", "997", "998", "999"]
    # A disk that cannot be written is no second failure.
    records.write_error("/proc/nowhere", attempt=1, rank=0, kind="error", step=0, phase="start", what="x")
    records.end_attempt("/proc/nowhere", 1, reason="error", exit_code=1, last_step=0)


def test_reading_needs_no_torch() -> None:
    code = "import sys, megatron_octo.runfiles.attempts; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2-03:04:05", 183845), ("3:04:05", 11045), ("4:05", 245), ("0:00", 0), ("UNLIMITED", None), ("", None)],
)
def test_time_left_as_squeue_says_it(text: str, seconds: float | None) -> None:
    assert seconds_left(text) == seconds


def test_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    now = time.time()
    assert not WallClock(now, None, 2).is_over()
    assert not WallClock(now, 10, 0.9).is_over()
    assert WallClock(now - 9.2 * 60, 10, 0.9).is_over()  # the reserve has begun
    assert not WallClock(now, 1, 50).is_over()  # never more than a tenth
    clock = WallClock(now, 1, 0.01)
    clock.saw_step(5.0)
    assert not clock.is_over()
    clock.saw_validation(50.0)  # 3 * 5 + 50 > 60, if there is one before the next chance to leave
    assert clock.is_over(validation_comes=True) and not clock.is_over()
    clock.saw_save(23.0)  # 3 * 5 + 2 * 23 > 60
    assert clock.is_over()

    # SLURM's own limit: from the environment, else from squeue.
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(now) + 50))
    assert slurm_end() == int(now) + 50
    assert WallClock(now - 1000, 100, 2).is_over()
    monkeypatch.delenv("SLURM_JOB_END_TIME")
    (tmp_path / "squeue").write_text('#!/bin/sh\n[ "$3" = 7 ] && echo 1:00:00\n')
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm_end() == pytest.approx(time.time() + 3600, abs=5)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert slurm_end() is None
