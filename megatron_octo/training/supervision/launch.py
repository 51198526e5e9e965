"""Ranks of a run: placed by torchrun or srun, or started here. Imports no torch.

``--nproc`` does not use torch's elastic launch: that turns every exit code of the ranks (2, 75, 76) into 1, does not
pass on SIGUSR1 and SIGUSR2, kills ranks that save for longer than 30 s, and imports torch in the launcher.
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from megatron_octo.common.errors import FAULT, REQUEUE, USER_ERROR, OctoError
from megatron_octo.common.ports import free_port, port_of_job
from megatron_octo.runfiles.signals import INTERRUPTED, SIGNALS

_GRACE_SECONDS = 15.0
_ABORT_SECONDS = 2.0
_HURRY_SECONDS = 3.0  # for ranks to leave after a second Ctrl-C
_POLL_SECONDS = 0.1
_OPEN_FILES = 128  # that a rank needs, more or less; rank 0 has a connection per rank besides


class LaunchError(OctoError):
    """Raised when variables or limits of a process do not fit a rank; every such rank reports it."""

    lone = True


def _number(name: str, low: int, high: int) -> int:
    """Return the value of a variable.

    Raises:
        LaunchError: it is missing, empty, not a whole number, or out of range.
    """
    text = os.environ.get(name)
    if text is None:
        raise LaunchError(
            f"{name} is not set, though other variables of a launcher are",
            where=f"environment variable {name}",
            hint="torchrun and srun set them all; to start without a launcher unset RANK, WORLD_SIZE and LOCAL_RANK",
        )
    if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
        limit = f"{low} to {high}" if high < 1 << 31 else f"{low} or more"
        raise LaunchError(
            f"{name} is {text!r}, expected a whole number, {limit}" if text else f"{name} is empty",
            where=f"environment variable {name}",
            hint="every rank needs a RANK of its own below WORLD_SIZE, a LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
            if not name.startswith("SLURM")
            else "srun sets it; was it changed by hand?",
        )
    return int(text)


def adopt_environment() -> bool:
    """Find this process's rank as torchrun or srun gave it and set torch's variables; return False if alone.

    Raises:
        LaunchError: variables are missing or wrong.
    """
    source = "MASTER_ADDR"
    if any(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")):
        world = _number("WORLD_SIZE", 1, 1 << 31)
        rank = _number("RANK", 0, 1 << 31)
        if rank >= world:
            raise LaunchError(
                f"RANK is {rank}, but WORLD_SIZE is {world}: ranks count from 0",
                where="environment variable RANK",
                hint=f"give the processes the ranks 0 to {world - 1}",
            )
        if world == 1:  # what one process needs
            os.environ.setdefault("LOCAL_RANK", "0")
            os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            os.environ.setdefault("MASTER_PORT", str(free_port()))
        _number("LOCAL_RANK", 0, world - 1)
    # Only srun sets SLURM_STEP_NUM_TASKS: the batch script itself, with SLURM_PROCID 0, is not a rank.
    elif "SLURM_STEP_NUM_TASKS" in os.environ or os.environ.get("SLURM_PROCID", "0") != "0":
        world = _number("SLURM_STEP_NUM_TASKS", 1, 1 << 31)
        os.environ.update(
            RANK=str(_number("SLURM_PROCID", 0, world - 1)),
            WORLD_SIZE=str(world),
            LOCAL_RANK=str(_number("SLURM_LOCALID", 0, world - 1) if "SLURM_LOCALID" in os.environ else 0),
        )
        if "MASTER_ADDR" not in os.environ:
            source, os.environ["MASTER_ADDR"] = _first_node()
        if "MASTER_PORT" not in os.environ:
            job = _number("SLURM_JOB_ID", 0, 1 << 40) if "SLURM_JOB_ID" in os.environ else 0
            os.environ["MASTER_PORT"] = str(port_of_job(job))
    else:
        return False
    _number("MASTER_PORT", 1, 65535)
    _check_address(source)
    return True


def _check_address(source: str) -> None:
    """Check that the host of rank 0, which a variable named, has an address."""
    address = os.environ.get("MASTER_ADDR")
    try:
        if not address:
            raise OSError("it is empty" if address is not None else "it is not set")
        socket.getaddrinfo(address, int(os.environ["MASTER_PORT"]))
    except (OSError, UnicodeError) as error:
        raise LaunchError(
            f"{source}: {address!r} is not a host with an address: {error}",
            where=f"environment variable {source}",
            hint="set MASTER_ADDR to the host of rank 0, by name or number",
        ) from None


def _first_node() -> tuple[str, str]:
    """Return the variable that lists the nodes, and the first of them."""
    name = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in os.environ else "SLURM_JOB_NODELIST"
    nodes = os.environ.get(name, "")
    if nodes.replace("-", "_").replace(".", "_").isidentifier():
        return name, nodes
    try:
        if not nodes:
            raise OSError("it is empty or not set")
        answer = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True, timeout=30
        )
        return name, answer.stdout.split()[0]
    except (OSError, ValueError, subprocess.SubprocessError, IndexError) as error:
        raise LaunchError(
            f"cannot find the first node of {name} {nodes!r}: {error}",
            where=f"environment variable {name}",
            hint="export MASTER_ADDR yourself",
        ) from None


def stand_alone() -> None:
    """Set torch's variables for a run of one process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))


def allow_open_files(world: int) -> None:
    """Raise the soft limit of open files to the hard one.

    Raises:
        LaunchError: the hard limit is too low for a rank of a run of ``world`` ranks.
    """
    needed = _OPEN_FILES + 2 * world
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LaunchError(
            f"at most {hard} files may be open at once, a rank of {world} needs about {needed}",
            where="ulimit -n",
            hint=f"raise the limit: ulimit -n {max(1024, needed)}",
        )
    if soft != resource.RLIM_INFINITY and soft < max(needed, 1024):
        high = 1 << 16 if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(high, max(needed, 1 << 16)), hard))


def _die_with_parent() -> None:
    # Linux only; elsewhere a killed launcher leaves its ranks to their collectives' time-out.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Ranks:
    """Processes of a run on this machine, and the signals that are passed on to them."""

    def __init__(self, count: int, arguments: Sequence[str]):
        self._interrupts: list[float] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        environment = dict(os.environ, WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
        command = [sys.executable, "-m", "megatron_octo.train", *arguments]
        for rank in range(count):
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)),
                    preexec_fn=_die_with_parent,
                    process_group=0,  # a terminal's Ctrl-C reaches them once, through this process
                )
            )

    def _pass_on(self, number: int, frame: object) -> None:
        if number == signal.SIGINT:
            self._interrupts.append(time.monotonic())
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    @property
    def must_go(self) -> bool:
        """Whether a second Ctrl-C came, and the ranks have had their time to leave."""
        return len(self._interrupts) > 1 and time.monotonic() - self._interrupts[1] > _HURRY_SECONDS

    def running(self) -> list[subprocess.Popen[bytes]]:
        return [process for process in self.processes if process.poll() is None]

    def wait(self) -> int:
        """Return the run's exit code once all ranks are gone."""
        while True:
            codes = [process.poll() for process in self.processes]
            if self.must_go:
                for process in self.running():
                    process.kill()
                return INTERRUPTED
            if any(codes):
                _explain_kills(codes)
                stuck = self._stop()
                gone = [process for process in self.processes if process not in stuck]
                return _common_code([process.poll() or 0 for process in gone])
            if all(code == 0 for code in codes):
                return 0
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> list[subprocess.Popen[bytes]]:
        """Give ranks time to leave by themselves, then end them; return those that did not leave."""
        self._wait_until_gone(_GRACE_SECONDS)
        stuck = self.running()
        for process in stuck:
            process.send_signal(signal.SIGABRT)  # Python's fault handler prints the stacks of all threads
        self._wait_until_gone(_ABORT_SECONDS)
        for process in stuck:
            if process.poll() is None:
                process.kill()
            process.wait()
        return stuck

    def _wait_until_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.running() and time.monotonic() < deadline and not self.must_go:
            time.sleep(_POLL_SECONDS)


def start_ranks(count: int, arguments: Sequence[str]) -> int:
    """Run ``python -m megatron_octo.train`` as ``count`` ranks on this machine; return the exit code.

    Signals are passed on. When one rank fails the others get a while to leave by themselves (rank_agent.py).
    """
    return _Ranks(count, arguments).wait()


def _explain_kills(codes: Sequence[int | None]) -> None:
    """Print why a rank may have been killed by SIGKILL, which it cannot report itself."""
    killed = [str(rank) for rank, code in enumerate(codes) if code == -signal.SIGKILL]
    if killed:
        print(
            f"rank {', '.join(killed)} was killed by SIGKILL, most likely by the kernel for lack of memory "
            "(dmesg shows it; a container or job has a limit of its own): take a smaller batch.micro_size or fewer "
            "ranks per machine",
            file=sys.stderr,
            flush=True,
        )


def _common_code(codes: list[int]) -> int:
    """Return one code for a run whose ranks ended differently; a rank that was killed or crashed is a fault."""
    for code in (INTERRUPTED, USER_ERROR, 1, FAULT, REQUEUE):
        if code in codes:
            return code
    return FAULT if any(code < 0 for code in codes) else max(codes)
