"""SLURM's records of jobs and nodes, read through its own commands."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable

_SECONDS = 60.0


def installed() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def ask(*words: str) -> str:
    """Return the output of one of SLURM's commands; times in it are Unix times.

    Raises:
        OctoError: it is not installed, does not answer, or refuses.
    """
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, env=environment)
    except FileNotFoundError:
        raise OctoError(
            f"no {words[0]} on this machine: SLURM is not installed here",
            where="SLURM",
            hint="log in where sbatch works, or run the stages on this machine with --cluster local",
        ) from None
    except subprocess.TimeoutExpired:
        raise OctoError(f"{words[0]} gave no answer within {_SECONDS:.0f} s", where="SLURM") from None
    if done.returncode:
        raise OctoError(f"{words[0]}: {done.stderr.strip() or done.stdout.strip()}", where=" ".join(words))
    return done.stdout


def job_fields(job: str) -> dict[str, str]:
    """Return ``scontrol show job`` as a mapping; empty if the controller has forgotten the job."""
    try:
        text = ask("scontrol", "--oneliner", "show", "job", job)
    except OctoError:
        return {}
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s\S+?=|\s*$)", text.splitlines()[0])) if text.strip() else {}


@dataclass(frozen=True)
class Waiting:
    """A job that is not over: its state (PENDING, RUNNING, COMPLETING, ...), why it waits, and the script it runs."""

    job: str
    state: str
    why: str
    nodes: str
    script: str = ""


def active() -> dict[str, Waiting]:
    """Return this user's jobs that are not over, by id; an array is one job."""
    found: dict[str, Waiting] = {}
    for line in ask("squeue", "--me", "--noheader", "--format=%A|%F|%T|%r|%N|%o").splitlines():
        job, array, state, why, nodes, script = (*line.split("|", 5), *[""] * 5)[:6]
        for name in (job, array):
            found.setdefault(name, Waiting(name, state, why, nodes, script))
    return found


@dataclass(frozen=True)
class Incarnation:
    """One start of a job, or of a task of an array, from the accounting.

    Attributes:
        task: of an array: its number; empty in other jobs.
        state: COMPLETED, FAILED, TIMEOUT, PREEMPTED, REQUEUED, NODE_FAIL, CANCELLED, RUNNING, ...
        start, end: Unix times; None: not yet.
        code: exit code of the batch script; ``signal`` that ended it, or 0.
        why: state, exit code and reason in SLURM's words, as far as they say more than ``state``.
    """

    job: str
    state: str
    start: float | None
    end: float | None
    nodes: tuple[str, ...]
    code: int
    signal: int
    task: str = ""
    why: str = ""


def history(jobs: Iterable[str]) -> list[Incarnation]:
    """Return every start of these jobs, requeued ones too, in order. The accounting lags some seconds behind."""
    names = ",".join(jobs)
    if not names:
        return []
    try:
        text = ask(
            "sacct", "-nXDP", "-S", "2000-01-01", "-j", names, "-o", "JobID,State,Start,End,NodeList,ExitCode,Reason"
        )  # fmt: skip
    except OctoError:  # a cluster without accounting: the run's own records have to do
        return []
    rows = []
    for line in text.splitlines():
        job, state, start, end, nodes, code, *reason = (*map(printable, line.split("|")), "")
        job, _, task = job.partition("_")
        number, _, signal = code.partition(":")
        rows.append(
            Incarnation(
                job,
                state.split()[0],  # "CANCELLED by 0"
                _time(start),
                _time(end),
                tuple(hosts(nodes)),
                int(number or 0),
                int(signal or 0),
                task,
                _why(state, int(number or 0), int(signal or 0), reason[0]),
            )
        )
    return sorted(rows, key=lambda row: row.start or float("inf"))


def _why(state: str, code: int, signal: int, reason: str) -> str:
    said = [state] if " " in state else []
    said += [f"exit code {code}"] if code else []
    said += [f"signal {signal}"] if signal else []
    said += [reason] if reason not in ("", "None") else []
    return ", ".join(said)


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def hosts(nodes: str) -> list[str]:
    """Expand ``node[1-3],other`` to names."""
    if not nodes or "None" in nodes:
        return []
    if nodes.replace("-", "").replace(".", "").isalnum():
        return [nodes]
    try:
        return ask("scontrol", "show", "hostnames", nodes).split()
    except OctoError:
        return []


def nodes_that_went_down(nodes: Iterable[str], since: float, until: float) -> list[str]:
    """Return those of the nodes that SLURM took for dead in a span of time."""
    names = sorted(nodes)
    day = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 1))
    try:
        text = ask(
            "sacctmgr", "-nP", "show", "event", f"nodes={','.join(names)}", f"start={day}",
            "format=NodeName,TimeStart,State",
        )  # fmt: skip
    except OctoError:
        return []
    found = set()
    for line in text.splitlines():
        name, start, state = line.split("|")[:3]
        begun = _time(start)
        if name in names and begun and since - 1 <= begun <= until + 1 and state.startswith(("DOWN", "FAIL")):
            found.add(name)
    return sorted(found)


def partition_nodes(partition: str) -> set[str]:
    """Return the nodes of a partition, whatever their state."""
    return set(ask("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N").split())


def requeue(job: str, exclude: Iterable[str] = ()) -> None:
    """Put this running job back into the queue, away from some nodes.

    The batch script is ended within seconds of it, so the caller has to ignore SIGTERM.
    """
    for left in range(5, -1, -1):
        try:
            ask("scontrol", "requeue", job)
            break
        except OctoError:  # a controller that is busy, or restarting
            if not left:
                raise
            time.sleep(10)
    if names := ",".join(sorted(exclude)):
        # Only a job that waits can be changed. It waits for some seconds at least, until its nodes are cleaned up.
        with contextlib.suppress(OctoError):
            ask("scontrol", "update", f"JobId={job}", f"ExcNodeList={names}")
