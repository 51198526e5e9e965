"""A real SLURM of two nodes on this machine, and small things to run on it."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("SLURM_LOCAL", "/tmp/slurm-local"))
TOOLS = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "munged", "mariadbd", "ip")


def ask(*words: str | Path) -> str:
    """The answer of one of SLURM's commands."""
    return subprocess.run([str(word) for word in words], check=True, text=True, capture_output=True).stdout.strip()


def wait_for[Result](what: str, look: Callable[[], Result], seconds: float = 120.0) -> Result:
    """Look four times a second until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still no {what}"
        time.sleep(0.25)
    return seen


class Cluster:
    """The cluster, and what is done to it from outside."""

    def start(self) -> None:
        """Start what is not up: all of it, or a node that was killed."""
        ask(HERE / "start_slurm.sh")

    def cut_power(self, node: str) -> None:
        os.kill(int((FOLDER / "run" / f"{node}.pid").read_text()), 9)

    def node_down(self, node: str) -> None:
        """An operator takes a node out, and gives it back."""
        ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        back = ["scontrol", "update", f"nodename={node}", "state=resume"]  # refused while it is cleaned up

        def is_up() -> bool:
            subprocess.run(back, capture_output=True)
            return ask("sinfo", "-hn", node, "-p", "main", "-o", "%T") in ("idle", "mixed", "allocated")

        wait_for(f"{node} up", is_up, 60)

    def state(self, job: str) -> str:
        """The controller's word: at once, and for some minutes after the end."""
        return ask("scontrol", "show", "job", job).split("JobState=")[1].split()[0]

    def wait(self, job: str, *states: str, seconds: float = 120.0) -> str:
        return wait_for(f"{states} of job {job}", lambda: (s := self.state(job)) in states and s, seconds)  # type: ignore[return-value]

    def clear(self) -> None:
        """No job is left for the next test."""
        self.start()
        ask("scancel", "--me")
        wait_for("empty queue", lambda: not ask("squeue", "--noheader"), 60)


def missing() -> str | None:
    if os.geteuid() != 0:
        return "a SLURM cluster of one's own needs root (network name spaces)"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    return f"no {', '.join(absent)} here: `make slurm-up` installs SLURM (Debian, Ubuntu)" if absent else None


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    if why := missing():
        pytest.skip(why)
    cluster = Cluster()
    # One test session at a time: another one on this machine would cut the power of our nodes.
    with open(f"{FOLDER}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_up = (FOLDER / "run" / "slurmctld.pid").exists()
        cluster.start()
        os.environ["SLURM_CONF"] = str(FOLDER / "etc/slurm.conf")
        yield cluster
        if not was_up:
            ask(HERE / "stop_slurm.sh")


@pytest.fixture(scope="module")
def cluster(slurm: Cluster) -> Iterator[Cluster]:
    slurm.clear()
    yield slurm
    slurm.clear()
