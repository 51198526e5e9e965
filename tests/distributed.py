"""Runs a function as several real ranks under gloo: forked, so that megatron-core is imported once a test session."""

import multiprocessing
import os
import pickle
import queue
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from megatron_octo.model.platform.mcore import load_mcore

os.environ["CUDA_VISIBLE_DEVICES"] = ""
torch.set_num_threads(1)  # threads do not survive a fork


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _rank_main(rank: int, world: int, port: int, results: Any, function: Callable[..., Any], arguments: Any) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.cuda._is_in_bad_fork = lambda: False  # no GPU here, so nothing of CUDA was forked
    try:
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
        answer = pickle.dumps(function(*arguments))
        results.put((rank, answer, None))
    except BaseException as error:
        results.put((rank, pickle.dumps(error), traceback.format_exc()))


def run_ranks(world: int, function: Callable[..., Any], *arguments: Any, timeout: float = 120.0) -> list[Any]:
    """Call ``function(*arguments)`` on ``world`` ranks of a fresh process group; returns their answers by rank.

    The first rank's exception is raised here.
    """
    load_mcore()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank_main, args=(rank, world, port, results, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    answers: dict[int, Any] = {}
    try:
        deadline = time.monotonic() + timeout
        while len(answers) < world:
            try:
                rank, payload, trace = results.get(timeout=0.5)
            except queue.Empty:
                dead = [p for p in processes if p.exitcode not in (None, 0)]
                if dead or time.monotonic() > deadline:
                    raise TimeoutError(f"ranks answered: {sorted(answers)} of {world}; {dead}") from None
                continue
            if trace:
                error = pickle.loads(payload)
                error.add_note(f"on rank {rank}:\n{trace}")
                raise error
            answers[rank] = pickle.loads(payload)
        return [answers[rank] for rank in range(world)]
    finally:
        for process in processes:
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def _command_main(rank: int, world: int, port: int, log: Path, argv: list[str]) -> None:
    from megatron_octo import train
    from megatron_octo.common.errors import run_command

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.cuda._is_in_bad_fork = lambda: False
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    run_command(lambda: train.main(argv))


def run_forked(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that makes a process group of its own, in a process of its own.

    Gloo keeps threads of which a fork knows nothing: once this process has had a group, forked ranks hang.
    """
    load_mcore()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # EOFError: it ended without an answer, its traceback is above
    finally:
        process.join()


def start_train(world: int, argv: list[str], log: Path) -> list[BaseProcess]:
    """Start the ranks of ``python -m megatron_octo.train ARGV`` as torchrun does, without its seconds of import.

    The processes, their exit codes and what they print into ``log`` are real; kill them as you like.
    """
    load_mcore()
    context = multiprocessing.get_context("fork")
    port = free_port()
    processes: list[BaseProcess] = [
        context.Process(target=_command_main, args=(rank, world, port, log, argv)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes: list[BaseProcess], timeout: float = 60.0) -> list[int]:
    """Wait for the ranks; whoever is late leaves its stacks in the log, is killed and has the code -9."""
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        os.kill(process.pid or 0, signal.SIGABRT)  # training has Python's fault handler on
    for process in late:
        process.join(2.0)
        process.kill()
        process.join()
    return [-9 if process in late else process.exitcode or 0 for process in processes]


def train(world: int, argv: list[str], log: Path) -> tuple[list[int], str]:
    """Exit codes and output of one start of the training command."""
    codes = exit_codes(start_train(world, argv, log))
    return codes, log.read_text() if log.exists() else ""


def wait_for(ready: Callable[[], Any], alive: Callable[[], bool], seconds: float = 90.0) -> None:
    """Poll as fast as can be: some of the moments last milliseconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert alive(), "ended before the moment came"
        assert time.monotonic() < deadline, "the moment never came"


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, by the kernel's account."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    return bool(caught >> (number - 1) & 1)
