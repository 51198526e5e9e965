"""One attempt at a time: the lock of a run directory between real processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.runfiles import run_lock as locks
from megatron_octo.runfiles.run_lock import LOCK, Owner, RunLock, owner_of

HOLD = """
import sys, time
from pathlib import Path
from megatron_octo.runfiles.run_lock import RunLock
RunLock.acquire(Path(sys.argv[1]), attempt=7)
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in tmp_path / "run"."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    environment = {**os.environ, "SLURM_JOB_ID": "12"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.mark.slow
def test_a_live_owner_keeps_it_and_is_named(tmp_path: Path, holder: subprocess.Popen[str], said: list[str]) -> None:
    with pytest.raises(OctoError, match=f"process {holder.pid} on .*, job 12, attempt 7") as error:
        RunLock.acquire(tmp_path / "run", 8, said.append)
    assert "another run_dir" in str(error.value)
    assert len(said) == 1 and owner_of(tmp_path / "run").pid == holder.pid  # type: ignore[union-attr]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    holder.send_signal(signal.SIGKILL)  # a zombie of ours until it is waited for: dead all the same
    time.sleep(0.2)
    start = time.monotonic()
    RunLock.acquire(tmp_path / "run", 8, said.append).release()
    assert time.monotonic() - start < locks.HEARTBEAT, "a dead process of this host needs no waiting"
    assert "its owner is gone" in said[1]
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.slow
def test_an_owner_that_shows_no_sign_of_life_loses_it(
    tmp_path: Path, holder: subprocess.Popen[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that cannot be asked: its heart is all there is. One that wakes up later leaves without writing."""
    monkeypatch.setattr(locks, "STALE", 2.0)
    holder.send_signal(signal.SIGSTOP)
    text = json.loads((tmp_path / "run" / LOCK).read_text())
    (tmp_path / "run" / LOCK).write_text(json.dumps({**text, "host": "elsewhere"}))
    mine = RunLock.acquire(tmp_path / "run", 8, said.append)
    mine.check(now=True)
    assert "no sign of life for 2 s (process" in said[-1] and "on elsewhere" in said[-1]
    assert owner_of(tmp_path / "run") == mine.owner
    (tmp_path / "run" / LOCK).write_text(json.dumps(text))  # as if the other had taken it over in turn
    with pytest.raises(OctoError, match="another attempt took over this run"):
        mine.check(now=True)
    mine.release()
    assert owner_of(tmp_path / "run").pid == holder.pid, "what is not ours is not removed"  # type: ignore[union-attr]


def test_the_heart_finds_out_that_the_lock_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    mine = RunLock.acquire(tmp_path, 1)
    before = (tmp_path / LOCK).stat().st_mtime_ns
    time.sleep(0.3)
    assert (tmp_path / LOCK).stat().st_mtime_ns > before
    mine.check()
    (tmp_path / LOCK).unlink()
    time.sleep(0.3)
    with pytest.raises(OctoError):
        mine.check()
    mine.release()


def test_a_file_server_that_is_away_takes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.05)
    mine = RunLock.acquire(tmp_path, 1)
    real, failures = open, [errno.ESTALE, errno.EIO, errno.ESTALE, errno.ESTALE, errno.ETIMEDOUT]

    def failing(path: Path, *more: Any, **options: Any) -> Any:
        if failures and path == mine.path:
            raise OSError(failures.pop(0), "away", str(path))
        return real(path, *more, **options)

    monkeypatch.setattr("builtins.open", failing)
    deadline = time.monotonic() + 10
    while failures:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)
    mine.check(now=True)
    failures += [errno.EIO]
    with pytest.raises(OSError, match="away"):  # not known is not lost, and not ours
        mine.check(now=True)
    mine.release()
    assert not (tmp_path / LOCK).exists()


def test_dead_or_unknown() -> None:
    me = Owner.me(1)
    gone = subprocess.Popen(["true"])
    gone.wait()
    fields = {**me.__dict__}
    assert Owner(**{**fields, "pid": gone.pid}).is_dead()
    assert Owner(**{**fields, "started": "1"}).is_dead() is True, "this very process may lock again"
    assert Owner(**{**fields, "pid": 1, "started": "0"}).is_dead(), "the pid belongs to another process now"
    assert Owner(**{**fields, "pid": gone.pid, "boot": "before"}).is_dead()
    assert not Owner(**{**fields, "pid": gone.pid, "space": "pid:[1]"}).is_dead(), "pids of a container"
    assert not Owner(**{**fields, "pid": gone.pid, "host": "elsewhere"}).is_dead()


@pytest.mark.slow
def test_many_who_find_it_stale_at_once(tmp_path: Path) -> None:
    """Each writes its number while it is alone; the lock of the dead one is taken over once."""
    (tmp_path / LOCK).write_text(json.dumps({**Owner.me(1).__dict__, "pid": 999_999_999}))
    code = """
import sys, time
from pathlib import Path
from megatron_octo.common.errors import OctoError
from megatron_octo.runfiles import run_lock as lock
run = Path(sys.argv[1])
lock.HEARTBEAT = 0.05
while True:
    try:
        mine = lock.RunLock.acquire(run, 1, lambda text: None)
    except OctoError:
        continue
    (run / "inside").touch(exist_ok=False)
    time.sleep(0.1)
    mine.check(now=True)
    (run / "inside").unlink()
    mine.release()
    break
"""
    others = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(6)]
    assert [process.wait(60) for process in others] == [0] * 6
    assert list(tmp_path.iterdir()) == []
