"""Bad nodes are named before the model is built: by ranks that are really slow, and hosts that really lack a disk."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_octo.config.layout import Layout
from megatron_octo.model.platform.grid import Grid
from megatron_octo.runfiles.attempts import read_attempts, read_errors
from megatron_octo.training.preflight import judge, measure
from megatron_octo.training.supervision.probes import Facts, neighbours
from tests.distributed import exit_codes, run_ranks
from tests.training.runs import TestRun, small_corpus

# What cpulimit does: the process runs a moment, and is stopped for ten times as long.
_THROTTLE = """
import os, signal, sys, time
target = int(sys.argv[1])
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
except OSError:
    pass
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
print(flush=True)
try:
    while not ended:  # its last word is to go on, whenever it is told to end
        os.kill(target, signal.SIGSTOP)
        time.sleep(0.004)
        os.kill(target, signal.SIGCONT)
        time.sleep(0.0003)
except ProcessLookupError:
    pass
"""


@contextmanager
def throttled(pid: int) -> Iterator[None]:
    throttle = subprocess.Popen([sys.executable, "-S", "-c", _THROTTLE, str(pid)], stdout=subprocess.PIPE)
    assert throttle.stdout
    throttle.stdout.readline()  # it has begun
    try:
        yield
    finally:
        throttle.terminate()
        throttle.wait()


def _facts(run: Path, slow: int, other_host: int) -> list[Facts]:
    """Measure as a run does; one rank is throttled, another lives on a host of its own without the run's disk."""
    rank = int(os.environ["RANK"])
    if rank == other_host:
        os.unshare(os.CLONE_NEWUTS | os.CLONE_NEWNS)
        socket.sethostname("node-b")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mount(b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE: what follows is seen here alone
        assert libc.mount(b"tmpfs", str(run).encode(), b"tmpfs", 0, b"size=1m") == 0
    grid = Grid.build(Layout(), torch.device("cpu"), 0)
    if rank != slow:
        return measure(grid, run)[0]
    with throttled(os.getpid()):
        return measure(grid, run)[0]


@pytest.mark.slow
def test_a_slow_rank_and_a_host_without_the_disk(tmp_path: Path) -> None:
    other = 3 if os.geteuid() == 0 and shutil.which("mount") else -1  # a host of its own takes root
    answers = run_ranks(4, _facts, tmp_path, 1, other)
    assert answers[0] == answers[1] == answers[2] == answers[3]
    findings = judge(answers[0])
    assert {finding.rank for finding in findings if finding.severe} == {1, *([3] if other == 3 else [])}
    text = "\n".join(finding.text for finding in findings)
    assert f"rank 1 on {socket.gethostname()}: matmul" in text
    if other == 3:
        assert answers[0][3].host == "node-b" and answers[0][3].local_world == 1
        assert "node-b does not see the run directory" in text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("preflight"))


@pytest.mark.slow
def test_a_run_stops_at_a_bad_rank_and_says_which(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, system={"preflight": "stop"}, parallel={"tensor": 2})
    processes = run.start(2)
    os.kill(processes[1].pid or 0, signal.SIGSTOP)  # it does not get ahead of what will slow it down
    with throttled(processes[1].pid or 0):
        codes = exit_codes(processes, 120)
    text = run.log.read_text()
    assert codes == [76, 76], text
    assert "preflight: rank 1 on" in text and "matmul" in text and "Traceback" not in text
    attempt = read_attempts(run.path)[0]
    assert (attempt.reason, attempt.exit_code, attempt.culprits) == ("preflight", 76, (1,))
    errors = read_errors(run.path)
    assert [(error.rank, error.kind, error.attempt) for error in errors] == [(1, "preflight", 1)]
    assert run.names() == []  # nothing was saved
    # The same command on a good machine.
    text = run.train(2, "system.preflight=warn")
    assert "preflight: 2 x CPU on 1 node; matmul" in text
    assert [attempt.reason for attempt in read_attempts(run.path)] == ["preflight", "finished"]


def test_none_looks_at_nothing(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, system={"preflight": "none"}, train={"steps": 1})
    assert "preflight: 1 x" not in run.train(1, "schedule.decay_steps=6")


GPU = Facts(0, "n0", 0, 4, "NVIDIA H100 80GB HBM3", 4, 78 << 30, 80 << 30, "GPU-0", 700e12, 40e9)


def test_judgement_of_gpus() -> None:
    """Two nodes of four GPUs; figures as NVIDIA's tools would give them."""
    good = [
        replace(GPU, rank=4 * node + gpu, host=f"n{node}", local_rank=gpu, identity=f"GPU-{gpu}")
        for node in range(2)
        for gpu in range(4)
    ]
    assert judge(good) == []

    def found(rank: int, **changed: object) -> list[str]:
        facts = [replace(fact, **changed) if fact.rank == rank else fact for fact in good]  # type: ignore[arg-type]
        findings = judge(facts)
        assert all(finding.severe for finding in findings)
        assert {finding.rank for finding in findings} <= {rank}
        return [finding.text for finding in findings]

    assert found(5, matmul=650e12) == []  # chips differ
    assert found(5, matmul=420e12) == ["rank 5 on n1, GPU 1: matmul 420 TFLOP/s, its peers' median is 700"]
    assert found(6, link=5e9) == ["rank 6 on n1, GPU 2: link to its neighbours 5 GB/s, its peers' median is 40"]
    assert "50.0 of 80.0 GiB are free" in found(3, memory_free=50 << 30)[0]
    # All have less than they could, which is no node's fault; but not less than the run takes.
    less = [replace(fact, memory_free=70 << 30) for fact in good]
    assert [finding.severe for finding in judge(less)] == [False] * 8
    assert [finding.severe for finding in judge(less, needed=65 * 2.0**30)] == [False] * 8
    assert [finding.severe for finding in judge(less, needed=71 * 2.0**30)] == [False] * 8
    assert "the run takes about 71.0" in judge(less, needed=71 * 2.0**30)[0].text
    # One of them could have had it.
    less[2] = replace(less[2], memory_free=75 << 30)
    assert [finding.severe for finding in judge(less, needed=71 * 2.0**30)] == [True] * 7
    alone = [replace(good[0], memory_free=60 << 30, local_world=1)]
    assert [finding.severe for finding in judge(alone, needed=65 * 2.0**30)] == [True]
    assert [finding.severe for finding in judge(alone, needed=100 * 2.0**30)] == [False]
    # Of another kind there is less on all.
    small = [replace(fact, device="A100 40GB", memory_free=35 << 30, memory_total=40 << 30) for fact in good[:3]]
    assert [finding.severe for finding in judge([*small, *good[3:]], needed=20 * 2.0**30)] == [False] * 3
    assert "n1 has 3 GPUs" in found(4, devices=3)[0]
    # Two ranks on one GPU: LOCAL_RANK was lost on the way.
    shared = [replace(fact, identity="GPU-1") if fact.rank in (4, 5) else fact for fact in good]
    assert [finding.rank for finding in judge(shared)] == [4, 5]
    # A scheduler may show each rank its own GPU alone.
    assert judge([replace(fact, devices=1, local_rank=fact.rank % 4) for fact in good]) == []
    assert "cannot write" in found(0, problem="cannot write into the run directory: Read-only file system")[0]


def test_everyone_meets_two_others() -> None:
    """Ranks of a host do not meet each other but where there is one host alone: the network is what is measured."""
    for nodes in (2, 3, 4, 7):
        hosts = [f"n{rank // 2}" for rank in range(2 * nodes)]
        met: dict[int, set[int]] = {rank: set() for rank in range(2 * nodes)}
        for pairs in neighbours(hosts):
            ranks = [rank for pair in pairs for rank in pair]
            assert len(ranks) == len(set(ranks))  # one at a time
            for one, two in pairs:
                assert hosts[one] != hosts[two] and one % 2 == two % 2
                met[one].add(two)
                met[two].add(one)
        assert all(met.values())
        if nodes > 2:
            assert sum(len(others) == 2 for others in met.values()) >= 2 * nodes - 4
    assert neighbours(["a"]) == []
    assert neighbours(["a", "a", "a", "a"]) == [[(0, 1), (2, 3)], [(1, 2), (3, 0)]]
