"""How a run's processes come to be: torchrun, srun, or started here. Imports no torch."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from megatron_octo.common.errors import FAULT, REQUEUE, USER_ERROR, OctoError
from megatron_octo.runfiles.signals import SIGNALS

_GRACE_SECONDS = 15.0
_ABORT_SECONDS = 2.0
_POLL_SECONDS = 0.1
_FORWARDED = (*SIGNALS, signal.SIGINT)


def adopt_environment() -> bool:
    """Find this process's rank as torchrun or srun gave it and set torch's variables; False if alone.

    Raises:
        OctoError: under srun, the address of the first node cannot be found.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        return True
    # Only srun sets SLURM_STEP_NUM_TASKS: the batch script itself is no rank.
    if "SLURM_STEP_NUM_TASKS" in os.environ and "SLURM_PROCID" in os.environ:
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_STEP_NUM_TASKS"]
        os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = _first_node()
        # The same on every rank without a word between them, and different for jobs that share a node.
        os.environ.setdefault("MASTER_PORT", str(20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000))
        return True
    return False


def _first_node() -> str:
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    if nodes.isidentifier():
        return nodes
    try:
        answer = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
        )
        return answer.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise OctoError(
            f"cannot find the first node of {nodes!r}: {error}",
            where="srun",
            hint="export MASTER_ADDR yourself",
        ) from None


def stand_alone() -> None:
    """Set torch's variables for a run of one process."""
    os.environ.update(
        RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _die_with_parent() -> None:
    # Linux only; elsewhere a killed launcher leaves its ranks to their collectives' time-out.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m megatron_octo.train`` as ``count`` ranks on this machine; returns the exit code.

    Signals are passed on. When one rank fails the others get a while to leave by themselves (rank_agent.py).
    """
    environment = dict(
        os.environ, WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )
    cores = os.cpu_count() or 1
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // count)))
    command = [sys.executable, "-m", "megatron_octo.train", *arguments]
    ranks = [
        subprocess.Popen(
            command, env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)), preexec_fn=_die_with_parent
        )
        for rank in range(count)
    ]

    def pass_on(number: int, frame: object) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    for number in _FORWARDED:
        signal.signal(number, pass_on)
    return _wait(ranks)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in ranks]
        failed = next((code for code in codes if code), None)
        if failed is not None:
            stuck = _stop([process for process in ranks if process.poll() is None])
            return _common_code([process.poll() or 0 for process in ranks if process not in stuck])
        if all(code == 0 for code in codes):
            return 0
        time.sleep(_POLL_SECONDS)


def _common_code(codes: list[int]) -> int:
    """One code for a run whose ranks ended differently: a rank that was killed, or crashed, is a fault."""
    for code in (USER_ERROR, 1, FAULT, REQUEUE):
        if code in codes:
            return code
    return FAULT if any(code < 0 for code in codes) else max(codes)


def _stop(ranks: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    """Give ranks that are on their way out the time to leave, then end them; returns those that did not leave."""
    _wait_until_gone(ranks, _GRACE_SECONDS)
    stuck = [process for process in ranks if process.poll() is None]
    for process in stuck:
        process.send_signal(signal.SIGABRT)  # Python's fault handler prints the stacks of all threads
    _wait_until_gone(stuck, _ABORT_SECONDS)
    for process in stuck:
        if process.poll() is None:
            process.kill()
        process.wait()
    return stuck


def _wait_until_gone(ranks: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
