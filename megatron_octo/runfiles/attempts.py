"""Records of a run's attempts and of the errors that ended them. Reading them imports no torch.

``RUN/attempts/NNN.json`` is written at the start of an attempt and completed at its end; one without an end was killed
from outside, with all its ranks. ``RUN/errors/attempt-NNN-rank-RRRRR.json`` is written by every rank that fails.
"""

import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import files
from megatron_octo.common.errors import OctoError
from megatron_octo.common.leases import flock
from megatron_octo.common.records import (
    Code,
    Lines,
    Moment,
    Number,
    Report,
    Words,
    checked,
    ignore,
    or_none,
    read_record,
)

ATTEMPTS, ERRORS, LOGS = "attempts", "errors", "logs"
METRICS, VALIDATION, STATE, RECIPE = "metrics.jsonl", "validation.jsonl", "state.json", "recipe.yaml"
FINISHED, WALL_CLOCK, ERROR, GUARD = "finished", "wall clock", "error", "guard"
HANG, LOST_RANK, REPLICAS, PREFLIGHT = "hang", "lost rank", "replicas differ", "preflight"
_KEPT_LINES = 200  # of a traceback
_ATTEMPT_FILE = re.compile(r"\d{3,9}\.json", re.ASCII)


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        started, ended: Unix time; ``ended`` is None while it runs, and if all ranks were killed at once.
        reason: ``finished``, ``signal SIGTERM`` (or another signal), ``wall clock``, ``error`` (a mistake or a bug),
            ``guard`` (the loss guard stopped it), ``hang``, ``lost rank``, ``replicas differ``,
            ``preflight`` (a bad node); None without an end.
        detail: one line more about it.
        exit_code: of its ranks.
        last_step: last step that was done; ``saved_step`` the last one with a checkpoint.
        culprits: the ranks that failed, or are behind.
        world: number of ranks.
        attention, mlp: kernels in use (names of model.backend.Backend and of model.fused.arithmetic.Arithmetic).
    """

    number: Number
    started: Moment
    host: Words = ""
    world: Number = 1
    job: Words | None = None
    ended: Moment | None = None
    reason: Words | None = None
    detail: Words | None = None
    exit_code: Code | None = None
    last_step: Number | None = None
    saved_step: Number | None = None
    culprits: tuple[Number, ...] | None = ()
    attention: Words | None = None
    mlp: Words | None = None

    @property
    def kernels(self) -> dict[str, str]:
        """The kernels that were recorded, by what they compute."""
        found = {"attention": self.attention, "mlp": self.mlp}
        return {what: name for what, name in found.items() if name}


@dataclass(frozen=True)
class ErrorRecord:
    """Report of one rank about the end of an attempt.

    Attributes:
        kind: ``error``, ``guard``, ``hang``, ``lost rank``, ``replicas differ`` or ``preflight``.
        step, phase: where this rank was (docs/faults.md lists the phases).
        what: one line; ``where`` and ``hint`` as in an OctoError.
        traceback: of the exception, or the stacks of all threads.
        collective: the operation between ranks that it waited in, if any.
        culprit: whether this rank failed or is behind; else it is a witness.
    """

    attempt: Number
    rank: Number
    host: Words
    pid: Number
    time: Moment
    kind: Words
    step: Number
    phase: Words
    what: Lines
    where: Words | None = None
    hint: Lines | None = None
    collective: Words | None = None
    culprit: bool = True
    traceback: Lines = ""

    @property
    def last_lines(self) -> list[str]:
        """The end of the traceback, for a summary."""
        return [line for line in self.traceback.splitlines() if line.strip()][-5:]


@dataclass(frozen=True)
class RunState:
    """``state.json``: running, stopped (saved, to be started again) or finished."""

    status: Words = "running"
    step: Number = 0
    attempt: Number | None = None
    saved: Number | None = None
    updated: Moment | None = None


_ATTEMPT, _ERROR, _STATE = TypeAdapter(Attempt), TypeAdapter(ErrorRecord), TypeAdapter(RunState)


def read_state(run: str | Path, report: Report = ignore) -> RunState:
    """Return how a run stands by its own record; what a fresh run has if there is none, or a bad one."""
    path = Path(run) / STATE
    found = or_none(lambda: read_record(path, _STATE), report) if path.exists() else None
    return found or RunState()


def is_finished(run: str | Path, steps: int) -> bool:
    """Return whether the training of ``steps`` steps is recorded as finished."""
    state = read_state(run)
    return state.status == FINISHED and state.step >= steps


def error_path(run: str | Path, attempt: int, rank: int) -> Path:
    """Return the file of a rank's error record."""
    return Path(run) / ERRORS / f"attempt-{attempt:03d}-rank-{rank:05d}.json"


def write_error(
    run: str | Path, *, attempt: int, rank: int, kind: str, step: int, phase: str, what: str, **more: Any
) -> None:
    """Write a rank's record. A disk that cannot be written must not hide the failure itself: then there is none."""
    if trace := more.get("traceback"):
        more["traceback"] = "\n".join(trace.splitlines()[-_KEPT_LINES:])
    try:
        path = error_path(run, attempt, rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        here = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        record = {
            "attempt": attempt,
            "rank": rank,
            **here,
            "kind": kind,
            "step": step,
            "phase": phase,
            "what": what,
        }
        files.write_json(path, {"culprit": True, **record, **more})
    except OSError:
        return


def read_errors(run: str | Path, attempt: int | None = None, report: Report = ignore) -> list[ErrorRecord]:
    """Read the records of one attempt or of all, culprits first, then in the order of time."""
    pattern = f"attempt-{'*' if attempt is None else f'{attempt:03d}'}-rank-*.json"
    paths = sorted((Path(run) / ERRORS).glob(pattern))
    read = [or_none(lambda path=path: read_record(path, _ERROR), report) for path in paths]  # type: ignore[misc]
    found = [record for record in read if record]
    return sorted(found, key=lambda record: (record.attempt, not record.culprit, record.time, record.rank))


def begin_attempt(run: str | Path, number: int, **record: Any) -> None:
    """Write ``attempts/NNN.json``; ``record`` has ``world``, ``environment``, ``recipe`` and more."""
    started = {"started": time.time(), "host": socket.gethostname(), "job": os.environ.get("SLURM_JOB_ID")}
    files.write_json(_attempt_path(run, number), {**started, **record})


def end_attempt(
    run: str | Path,
    number: int,
    *,
    reason: str,
    exit_code: int,
    last_step: int,
    detail: str | None = None,
    culprits: tuple[int, ...] = (),
) -> None:
    """Complete ``attempts/NNN.json``. Any rank may; the first one's reason stays."""
    path = _attempt_path(run, number)
    try:
        lock = flock(path.parent, OctoError("another rank writes the end", where=path))
        try:
            record = files.read_json(path)
            if "ended" not in record:
                end = {
                    "ended": time.time(),
                    "reason": reason,
                    "detail": detail,
                    "exit_code": exit_code,
                    "last_step": last_step,
                    "saved_step": _saved_step(run),
                    "culprits": list(culprits),
                }
                files.write_json(path, {**record, **end})
        finally:
            os.close(lock)
    except (OSError, OctoError):  # nothing can be written here, or another rank is writing it
        return


def _saved_step(run: str | Path) -> int | None:
    found = layout.candidates(Path(run) / layout.CHECKPOINTS)
    return layout.step_of(found[0]) if found else None


def attempt_numbers(run: str | Path, report: Report = ignore) -> list[int]:
    """Return the numbers of the attempts that have a record, in order; other files are reported."""
    found = []
    for path in (Path(run) / ATTEMPTS).glob("[0-9]*.json"):
        if _ATTEMPT_FILE.fullmatch(path.name) and path == _attempt_path(run, int(path.stem)):
            found.append(int(path.stem))
        else:
            report(f"{path}: not the name of an attempt's record")
    return sorted(found)


def read_attempts(run: str | Path, report: Report = ignore) -> list[Attempt]:
    """Read all attempts in order; a record that is not valid is reported and passed over."""
    read = [or_none(lambda n=n: read_attempt(run, n), report) for n in attempt_numbers(run, report)]  # type: ignore[misc]
    return [attempt for attempt in read if attempt]


def read_attempt(run: str | Path, number: int) -> Attempt:
    """Read one attempt.

    Raises:
        OctoError: there is no record, or it is not valid.
    """
    path = _attempt_path(run, number)
    record = read_record(path, TypeAdapter(dict[str, Any]))
    environment = record.get("environment")
    if isinstance(environment, dict):  # of former versions
        record = {"host": environment.get("host", ""), "job": environment.get("slurm_job"), **record}
    return checked(_ATTEMPT, {**record, "number": number}, path)


def attempt_recipe(run: str | Path, number: int) -> dict[str, Any]:
    """Return the resolved recipe of an attempt, as a plain mapping.

    Raises:
        OctoError: there is no record, or none of a recipe.
    """
    recipe = read_record(_attempt_path(run, number), TypeAdapter(dict[str, Any])).get("recipe")
    if not isinstance(recipe, dict):
        raise OctoError("the record of this attempt has no recipe", where=_attempt_path(run, number))
    return recipe


def _attempt_path(run: str | Path, number: int) -> Path:
    return Path(run) / ATTEMPTS / f"{number:03d}.json"
