"""Commands of the product in forked processes: real processes, files and exit codes without the seconds of import."""

import contextlib
import importlib
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads do not survive a fork.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
os.environ.update(PYTHONUNBUFFERED="1", COLUMNS="200")
os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "200")
HANG = "no end"


@dataclass(frozen=True)
class Done:
    """The end of a command: exit code (None: it was killed at its time limit), output, seconds."""

    code: int | None
    text: str
    seconds: float


def warm_up(*modules: str) -> None:
    """Import modules once, before the forks."""
    import torch

    torch.set_num_threads(1)
    torch.cuda._is_in_bad_fork = lambda: False
    for module in modules:
        importlib.import_module(module)


def warm_up_training() -> None:
    """Import everything that a training imports."""
    warm_up("megatron_octo.train")
    from megatron_octo.model.platform.mcore import load_mcore

    load_mcore()
    warm_up("megatron_octo.training.loop", "megatron_octo.training.supervision.rank_agent")


def warm_up_run() -> None:
    """Import everything that trains a run, shows it and submits it."""
    warm_up_training()
    warm_up("megatron_octo.inspect", "megatron_octo.runview.page", "megatron_octo.runview.text")
    warm_up("megatron_octo.submit", "megatron_octo.cluster.run_commands", "megatron_octo.preprocess")


def command(
    module: str,
    words: Sequence[object],
    log: Path,
    limit: float = 60.0,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory: int | None = None,
) -> Done:
    """Run ``python -m MODULE WORDS`` in a fork, alone in its process group.

    Args:
        module: a module with ``main(argv)``.
        words: its arguments.
        log: file for standard output and error; it is written anew.
        limit: seconds after which the group is killed.
        folder: working directory.
        environment: more variables.
        memory: bytes that the process may map beyond those of this one.
    """

    def body() -> int:
        from megatron_octo.common.errors import run_command

        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        main = importlib.import_module(module).main
        try:
            run_command(lambda: main([str(word) for word in words]))
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            return end.code if isinstance(end.code, int) else int(bool(end.code))
        return 0

    start = time.perf_counter()
    log.unlink(missing_ok=True)
    code = _wait(_fork(body, log, folder, environment), limit)
    text = log.read_text(errors="surrogateescape") if log.exists() else ""
    return Done(code, text, time.perf_counter() - start)


def train(words: Sequence[object], log: Path, limit: float = 90.0) -> Done:
    """Run ``python -m megatron_octo.train`` as the only rank."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    rank = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return command("megatron_octo.train", words, log, limit, environment=rank)


def call(function: Callable[[], Any], log: Path, limit: float = 120.0) -> tuple[int | None, Any]:
    """Call a function in a fork; returns its exit code and its value (None if it did not return)."""
    reader, writer = os.pipe()

    def body() -> int:
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(function(), pipe)
        return 0

    pid = _fork(body, log, None, None)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        payload = pipe.read()
    code = _wait(pid, limit)
    return code, pickle.loads(payload) if payload else None


def _fork(body: Callable[[], int], log: Path, folder: Path | None, environment: Mapping[str, str] | None) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, errors="backslashreplace") for number in (1, 2))
        if folder:
            os.chdir(folder)
        os.environ.update(environment or {})
        code = body()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(pid: int, limit: float) -> int | None:
    end = time.monotonic() + limit
    found: int | None = None
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            found = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # with everything that it left behind
    if found is None:
        os.waitpid(pid, 0)
    return found
