"""Ranks that die, hang or err, on real processes: all leave with one code, it is said who, and the restart is exact."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.runfiles.attempts import Attempt, read_attempts, read_errors
from megatron_octo.training.supervision.diagnosis import Status, find_behind, waiting_in
from megatron_octo.training.supervision.error_policy import explain, lost_contact
from megatron_octo.training.supervision.fault_injection import Fault, read_faults
from megatron_octo.training.supervision.launch import _common_code
from tests.distributed import catches, wait_for
from tests.training.runs import TestRun, exit_codes, small_corpus

TP2 = {"parallel": {"tensor": 2}, "checkpoint": {"interval": 2, "keep": 9, "asynchronous": False}}
QUICK = "system.timeout_minutes=0.1"  # six seconds


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    run = TestRun(tmp_path_factory.mktemp("whole"), corpus, **TP2)
    run.train(2)
    return run


def with_fault(run: TestRun, monkeypatch: pytest.MonkeyPatch, fault: str, *overrides: str) -> tuple[list[int], str]:
    """Exit codes and output of a start with a fault; the next one has none."""
    monkeypatch.setenv("OCTO_FAULT", fault)
    codes = exit_codes(run.start(2, *overrides))
    monkeypatch.delenv("OCTO_FAULT")
    return codes, run.log.read_text()


def last_attempt(run: TestRun) -> Attempt:
    return read_attempts(run.path)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "kind"), [(1, "kill"), (0, "kill"), (1, "crash")])
def test_a_rank_dies(
    tmp_path: Path, corpus: Path, whole: TestRun, monkeypatch: pytest.MonkeyPatch, rank: int, kind: str
) -> None:
    run = TestRun(tmp_path, corpus, **TP2)
    codes, text = with_fault(run, monkeypatch, f"rank={rank},step=4,kind={kind}")
    assert codes[1 - rank] == 76, text
    assert codes[rank] == -(signal.SIGKILL if kind == "kill" else signal.SIGSEGV)
    assert f"error: lost rank: rank {rank} (" in text
    assert "its process has ended" in text
    assert "Traceback" not in text
    if kind == "crash":
        assert "Fatal Python error: Segmentation fault" in text
    attempt = last_attempt(run)
    assert (attempt.reason, attempt.exit_code, attempt.culprits) == ("lost rank", 76, (rank,))
    assert (attempt.last_step, attempt.saved_step) == (3, 2)
    (record,) = read_errors(run.path)
    assert (record.rank, record.culprit, record.kind) == (1 - rank, False, "lost rank")
    assert record.step == 4
    run.train(2)
    assert run.content(6) == whole.content(6)
    assert run.curve() == whole.curve()
    assert last_attempt(run).reason == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "fault", "said"),
    [
        (1, "kind=hang,phase=data", "step 5, data"),
        (0, "kind=hang", "step 5, gradients"),
        (1, "kind=wait,phase=update", "waits in recv"),
    ],
)
def test_a_rank_hangs(
    tmp_path: Path,
    corpus: Path,
    whole: TestRun,
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    fault: str,
    said: str,
) -> None:
    run = TestRun(tmp_path, corpus, **TP2)
    codes, text = with_fault(run, monkeypatch, f"rank={rank},step=5,{fault}", QUICK)
    assert codes == [76, 76], text
    assert "error: hang: no progress for" in text
    behind = next(line for line in text.splitlines() if line.startswith("  behind:"))
    assert f"rank {rank} (" in behind and said in behind
    waits = next(line for line in text.splitlines() if line.startswith("  waits:"))
    assert waits.startswith(f"  waits:  rank {1 - rank} (") and "TENSOR_MODEL_PARALLEL_GROUP" in waits
    attempt = last_attempt(run)
    assert (attempt.reason, attempt.exit_code, attempt.culprits) == ("hang", 76, (rank,))
    # With tensor parallelism alone an update has no operation between ranks: rank 0 goes on to the next step.
    assert attempt.last_step in ({4, 5} if "update" in fault else {4})
    assert attempt.saved_step == 4
    guilty, other = read_errors(run.path)
    assert (guilty.rank, guilty.culprit, other.culprit) == (rank, True, False)
    # The last lines are the innermost calls of the main thread.
    assert "sleep" in guilty.last_lines[-1] or "work.wait()" in guilty.last_lines[-1]
    run.train(2)
    assert run.content(6) == whole.content(6)


@pytest.mark.slow
def test_a_rank_falls_silent(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process cannot say anything; the others leave without it."""
    run = TestRun(tmp_path, corpus, **TP2)
    monkeypatch.setenv("OCTO_FAULT", "rank=1,step=2,kind=stop")
    processes = run.start(2, QUICK)
    assert exit_codes(processes[:1]) == [76]
    assert processes[1].is_alive()
    processes[1].kill()
    assert "no message from it for 6 s" in run.log.read_text()
    assert last_attempt(run).culprits == (1,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("rank=1,step=3,kind=exception", 1, "RuntimeError: a fault on purpose, step 3"),
        (
            "rank=1,step=3,kind=mistake",
            2,
            "[rank 1] error: a mistake on purpose, step 3\n  where: OCTO_FAULT",
        ),
        ("rank=0,step=3,kind=full,phase=update", 2, "error: no space left on the device"),
    ],
)
def test_one_rank_errs(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, fault: str, code: int, message: str
) -> None:
    """The others leave with the same code and without a word."""
    run = TestRun(tmp_path, corpus, **TP2)
    codes, text = with_fault(run, monkeypatch, fault)
    assert codes == [code, code], text
    assert text.count(message) == 1
    assert text.count("Traceback") == (1 if code == 1 else 0)
    assert "gloo" not in text
    attempt = last_attempt(run)
    rank = int(fault[5])
    assert (attempt.reason, attempt.exit_code, attempt.culprits) == ("error", code, (rank,))
    assert attempt.detail and attempt.detail in text
    (record,) = read_errors(run.path)
    assert record.rank == rank and record.culprit
    assert "Traceback" in record.traceback
    assert run.names() == ["latest", "step-00000002"]
    run.train(2)


@pytest.mark.slow
def test_a_job_that_is_suspended_goes_on(
    tmp_path: Path, corpus: Path, whole: TestRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has hung or fallen silent while all processes were stopped, for longer than the time-out."""
    run = TestRun(tmp_path, corpus, **TP2)
    monkeypatch.setenv("OCTO_FAULT", "rank=0,step=3,kind=slow,seconds=0.5")
    processes = run.start(2, "system.timeout_minutes=0.06")
    while not run.log.exists() or "step 2/6" not in run.log.read_text():
        assert all(process.is_alive() for process in processes)
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid or 0, signal.SIGSTOP)
    time.sleep(5)
    for process in processes:
        os.kill(process.pid or 0, signal.SIGCONT)
    assert exit_codes(processes) == [0, 0], run.log.read_text()
    assert run.content(6) == whole.content(6)


def start_command(run: TestRun, launcher: list[str], fault: str, *arguments: str) -> int:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OCTO_FAULT": fault}
    with open(run.log, "ab") as log:
        command = [sys.executable, "-m", *launcher, str(run.recipe), *arguments]
        return subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=120).returncode


@pytest.mark.slow
def test_the_launcher(tmp_path: Path, corpus: Path) -> None:
    """``--nproc 2``: a rank that stands still is ended by the launcher, with its stacks."""
    run = TestRun(tmp_path, corpus, **TP2)
    started = time.monotonic()
    code = start_command(run, ["megatron_octo.train"], "rank=1,step=1,kind=stop", "--nproc", "2", QUICK)
    text = run.log.read_text()
    assert code == 76, text
    assert "lost rank" in text
    assert time.monotonic() - started < 90
    assert last_attempt(run).reason == "lost rank"


@pytest.mark.slow
def test_torchrun(tmp_path: Path, corpus: Path) -> None:
    """It exits with 1 whatever its workers' codes are; the run's own record tells."""
    run = TestRun(tmp_path, corpus, **TP2)
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "megatron_octo.train"]
    assert start_command(run, launcher, "rank=0,step=3,kind=kill") == 1
    attempt = last_attempt(run)
    assert (attempt.reason, attempt.exit_code, attempt.culprits) == ("lost rank", 76, (0,))
    assert start_command(run, launcher, "") == 0
    assert run.state()["status"] == "finished"


@pytest.mark.slow
def test_a_rank_that_never_comes(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, **TP2)
    processes = run.start(2, QUICK)
    processes[1].kill()
    assert exit_codes(processes) == [76, -9]
    assert "error: rank 1 of 2 did not come within 6 s\n  where: 127.0.0.1:" in run.log.read_text()
    assert "Traceback" not in run.log.read_text()
    processes = run.start(2, QUICK)
    processes[0].kill()
    assert exit_codes(processes) == [-9, 76]
    assert "[rank 1] error: rank 0 did not answer rank 1: " in run.log.read_text()
    assert "Traceback" not in run.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_a_rank_that_is_asked_to_stop_does_not_wait_long_for_one_that_left(
    tmp_path: Path, corpus: Path, gone: int
) -> None:
    run = TestRun(tmp_path, corpus, **TP2)
    processes = run.start(2, "system.timeout_minutes=60")
    processes[gone].kill()
    other = processes[1 - gone]
    wait_for(lambda: catches(other.pid or 0, signal.SIGTERM), other.is_alive)
    os.kill(other.pid or 0, signal.SIGTERM)
    assert exit_codes(processes)[1 - gone] == 76
    missing = "rank 1 of 2 did not come before signal SIGTERM" if gone else "rank 0 did not answer rank 1"
    assert missing in run.log.read_text() and "Traceback" not in run.log.read_text()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OctoError("bad"), 2, "bad"),
        (OSError(errno.ENOSPC, "full", "f"), 2, "no space left"),
        (
            OSError(errno.ESTALE, "Stale file handle", "/nfs/f"),
            76,
            "the file system failed: Stale file handle",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            2,
            "out of GPU memory: CUDA out",
        ),
        (RuntimeError("CUDA error: uncorrectable ECC error\nmore"), 76, "the GPU failed: CUDA error: uncorr"),
        (RuntimeError("ours"), None, ""),
        (ValueError("gloo"), None, ""),
    ],
)
def test_what_an_error_means(error: Exception, code: int | None, said: str) -> None:
    known = explain(error)
    assert (known.code if known else None) == code
    assert said in str(known)
    assert not lost_contact(error)


def test_lost_contact() -> None:
    text = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1"
    assert lost_contact(RuntimeError(text))
    assert lost_contact(torch.distributed.DistBackendError("NCCL error in: ..."))


@pytest.mark.parametrize(
    ("codes", "code"),
    [([0, 0], 0), ([75, 75], 75), ([76, -9], 76), ([-9, -9], 76), ([2, 76], 2), ([1, 76], 1), ([75, 76], 76)],
)
def test_codes_of_ranks_become_one(codes: list[int], code: int) -> None:
    assert _common_code(codes) == code


def test_who_is_behind() -> None:
    def at(rank: int, step: int, phase: Any, **more: Any) -> Status:
        return Status(rank, "host", step, phase, **more)

    wait = {"collective": "nccl all_reduce"}
    early = at(2, 3, "update", **wait)
    assert find_behind([at(0, 4, "data"), at(1, 4, "gradients", **wait), early]) == [early]
    busy = at(1, 3, "gradients")
    assert find_behind([at(0, 3, "gradients", **wait), busy, at(2, 3, "totals", **wait)]) == [busy]
    late = at(0, 3, "gradients", **wait, started=False)
    assert find_behind([late, at(1, 3, "gradients", **wait, started=True)]) == [late]
    longest = at(1, 3, "gradients", **wait, waits=9.0)
    assert find_behind([at(0, 3, "gradients", **wait, waits=8.5), longest]) == [longest]
    both = [at(0, 3, "data", **wait), at(1, 3, "data", **wait)]
    assert find_behind([*both, at(2, 3, "gradients", **wait)]) == both


def test_faults_are_read() -> None:
    assert read_faults("") == []
    assert read_faults("rank=1,step=7,kind=hang; rank=0, step=2, kind=slow, seconds=0.5, attempt=*, phase=data") == [
        Fault("hang", 1, 7),
        Fault("slow", 0, 2, "data", None, 0.5),
    ]
    for text in (
        "rank=1",
        "rank=1,step=x,kind=hang",
        "rank=1,step=1,kind=melt",
        "rank=1,step=1,kind=hang,day=1",
    ):
        with pytest.raises(OctoError, match="not a fault"):
            read_faults(text)


@pytest.mark.parametrize("record", ['{"entries": [{"state": "scheduled"}]}', "[]", '{"entries": 3}', "nonsense"])
def test_a_flight_recorder_of_another_version(monkeypatch: pytest.MonkeyPatch, record: str) -> None:
    """What cannot be read says nothing, and ends no thread."""
    import torch._C._distributed_c10d as c10d

    for dump in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        monkeypatch.setattr(c10d, dump, lambda: record, raising=False)
    assert waiting_in()[1:] == (0.0, None)
