"""Kills and polite requests, on real processes: what is on disk afterwards is what an undisturbed run leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from megatron_octo.runfiles.attempts import read_attempts
from tests.distributed import catches, wait_for
from tests.training.runs import STEPS, TestRun, exit_codes, small_corpus

TP2 = {
    "parallel": {"tensor": 2},
    "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "checkpoint": {"interval": 1, "keep": 9},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    run = TestRun(tmp_path_factory.mktemp("whole"), corpus, **TP2)
    run.train(2)
    return run


def saving(run: TestRun, step: int) -> bool:
    """Whether the checkpoint of a step is being written and has some bytes already."""
    try:
        return any(path.stat().st_size for path in run.checkpoints.glob(f".step-{step:08d}.*.tmp/*"))
    except FileNotFoundError:
        return False


def lines(run: TestRun) -> int:
    path = run.path / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_all(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    assert exit_codes(processes) == [-signal.SIGKILL] * len(processes)


@pytest.mark.slow
def test_kills_at_any_moment(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = TestRun(tmp_path, corpus, **TP2)
    moments: list[Callable[[], bool]] = [
        lambda: saving(run, 1),  # before there is any checkpoint
        lambda: saving(run, 3),  # while one is written
        lambda: run.step(4).exists(),  # just committed, perhaps before the pointer moved
        lambda: lines(run) >= 5,  # a step was reported and is not saved
    ]
    for moment in moments:
        processes = run.start(2)
        wait_for(moment, lambda: all(process.is_alive() for process in processes))  # noqa: B023
        kill_all(processes)
        assert run.state()["status"] == "running"
    # A line that the kill cut in two.
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    text = run.train(2)
    assert "WARNING" not in text
    assert run.curve() == whole.curve()
    # A kill may leave what was written aside; it is never taken for anything.
    assert {name for name in run.names() if not name.endswith(".tmp")} == set(whole.names())
    for step in range(1, STEPS + 1):
        assert run.content(step) == whole.content(step)
    assert run.state()["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_request_to_one_rank_stops_all(tmp_path: Path, corpus: Path, whole: TestRun, number: signal.Signals) -> None:
    run = TestRun(tmp_path, corpus, **{**TP2, "checkpoint": {"interval": 100}})
    processes = run.start(2)
    wait_for(lambda: lines(run) >= 2, lambda: all(process.is_alive() for process in processes))
    os.kill(processes[1].pid or 0, number)  # SLURM does not reach all ranks at once
    assert exit_codes(processes) == [75, 75]
    stopped = run.state()
    assert (stopped["status"], stopped["saved"]) == ("stopped", stopped["step"])
    assert 2 <= stopped["step"] < STEPS
    assert run.names() == ["latest", f"step-{stopped['step']:08d}"]
    first = read_attempts(run.path)[0]
    assert (first.reason, first.exit_code) == (f"signal {number.name}", 75)
    assert (first.last_step, first.saved_step, first.world) == (stopped["step"], stopped["step"], 2)
    run.train(2)
    assert run.curve() == whole.curve()
    assert run.content(6) == whole.content(6)
    assert run.state()["status"] == "finished"
    assert [attempt.reason for attempt in read_attempts(run.path)] == [first.reason, "finished"]


@pytest.mark.slow
def test_the_wall_clock_stops_all(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = TestRun(tmp_path, corpus, **{**TP2, "checkpoint": {"interval": 100}})
    assert exit_codes(run.start(2, "system.wall_minutes=0.001")) == [75, 75]
    attempt = read_attempts(run.path)[0]
    assert (attempt.reason, attempt.last_step, attempt.saved_step) == ("wall clock", 1, 1)
    run.train(2)
    assert run.content(6) == whole.content(6)


@pytest.mark.slow
def test_finished_is_finished(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1})
    run.train(1, "train.steps=1")
    content = run.content(1)
    # As a kill between the last checkpoint and the last line leaves it.
    (run.path / "state.json").write_text('{"status": "running", "step": 1}')
    text = run.train(1, "train.steps=1")
    assert "already finished at step 1" in text
    assert run.state()["status"] == "finished"
    assert run.content(1) == content
    assert lines(run) == 1


def ranks_listening(launcher: int) -> int:
    """How many ranks of a launcher catch SIGUSR1 already, by the kernel's account."""
    return sum(catches(child.pid, signal.SIGUSR1) for child in psutil.Process(launcher).children())


@pytest.mark.slow
def test_the_command_itself(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    """``python -m megatron_octo.train --nproc 2``: kill -9 of the group while it saves, then SIGUSR1, then the end."""
    run = TestRun(tmp_path, corpus, **TP2)
    command = [sys.executable, "-m", "megatron_octo.train", str(run.recipe), "--nproc", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}

    def start() -> "subprocess.Popen[bytes]":
        with open(run.log, "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    process = start()
    wait_for(lambda: saving(run, 2), lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL

    process = start()
    # During the imports, long before the first step: it is not lost, and the launcher passes it on.
    wait_for(lambda: ranks_listening(process.pid) == 2, lambda: process.poll() is None)
    assert "resuming" not in run.log.read_text()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert run.state()["status"] == "stopped"

    run.train(2)
    assert run.curve() == whole.curve()
    for step in range(1, STEPS + 1):
        assert run.content(step) == whole.content(step)
    assert "Traceback" not in run.log.read_text()


@pytest.mark.slow
def test_who_asks_to_stop_does_not_wait_for_a_validation(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 100}, eval={"interval": 1, "steps": 1})
    valid = f"data.valid=valid: 1.0 0:1 {corpus}"
    assert exit_codes(run.start(2, valid, "system.wall_minutes=0.001")) == [75, 75]
    assert run.names() == ["latest", "step-00000001"]
    assert not (run.path / "validation.jsonl").exists()
    run.train(2, valid)
    steps = [json.loads(line)["step"] for line in (run.path / "validation.jsonl").read_text().splitlines()]
    assert steps == list(range(2, STEPS + 1))


def test_nothing_is_said_to_be_saved_that_is_not(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 0})
    assert exit_codes(run.start(1, "system.wall_minutes=0.001")) == [75]
    assert "nothing is saved (checkpoint.interval is 0)" in run.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_control_c_saves_and_a_second_one_leaves_at_once(tmp_path: Path, corpus: Path, times: int) -> None:
    """As a terminal sends it, to the whole group of the command; each step takes a minute."""
    run = TestRun(tmp_path, corpus, **{**TP2, "checkpoint": {"interval": 2, "asynchronous": False}})
    fault = "rank=1,step=4,kind=slow,seconds=60" if times == 2 else "rank=1,step=4,kind=slow,seconds=1,phase=data"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OCTO_FAULT": fault}
    command = [sys.executable, "-m", "megatron_octo.train", str(run.recipe), "--nproc", "2"]
    with open(run.log, "ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    wait_for(lambda: lines(run) >= 3, lambda: process.poll() is None)
    time.sleep(1)  # rank 0 has written step 3; rank 1 is given time to end it, too
    os.killpg(process.pid, signal.SIGINT)
    if times == 2:
        wait_for(lambda: "Ctrl-C again leaves at once" in run.log.read_text(), lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    assert process.wait(45) == (75 if times == 1 else 130), run.log.read_text()
    text = run.log.read_text()
    assert "Traceback" not in text and "Ctrl-C: saving after this step" in text
    attempt = read_attempts(run.path)[0]
    assert (attempt.reason, attempt.exit_code) == ("signal SIGINT", 75 if times == 1 else 130)
    if times == 2:
        assert time.monotonic() - started < 20
        assert attempt.last_step == 3 and attempt.saved_step == 2
        assert text.count("interrupted twice, left at once") == 1
        assert not (run.path / "lock").exists()
    else:
        assert attempt.saved_step == attempt.last_step == run.state()["saved"]
    assert f"resuming at step {attempt.saved_step} " in run.train(2)
