"""How each attempt at a run began and ended, and what went wrong on which rank. Reading these imports no torch.

``RUN/attempts/NNN.json`` is written at the start of an attempt and completed at its end; one without an end was killed
from outside, with all its ranks. ``RUN/errors/attempt-NNN-rank-RRRRR.json`` is written by every rank that fails.
"""

import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import files

ATTEMPTS, ERRORS = "attempts", "errors"
METRICS, VALIDATION, STATE = "metrics.jsonl", "validation.jsonl", "state.json"
FINISHED, WALL_CLOCK, ERROR, GUARD = "finished", "wall clock", "error", "guard"
HANG, LOST_RANK, REPLICAS, PREFLIGHT = "hang", "lost rank", "replicas differ", "preflight"
_KEPT_LINES = 200  # of a traceback


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        started, ended: Unix time; ``ended`` is None while it runs, and if all ranks were killed at once.
        reason: ``finished``, ``signal SIGTERM`` (or another signal), ``wall clock``, ``error`` (a mistake or a bug),
            ``guard`` (the loss guard stopped it), ``hang``, ``lost rank``, ``replicas differ``,
            ``preflight`` (a bad node); None without an end.
        detail: one line more about it.
        exit_code: what its ranks exited with.
        last_step: last step that was done; ``saved_step`` the last one with a checkpoint.
        culprits: the ranks that failed, or are behind.
        world: number of ranks.
        attention, mlp: the kernels it took (names of model.backend.Backend and of model.fused.arithmetic.Arithmetic).
    """

    number: int
    started: float
    host: str
    world: int
    job: str | None
    ended: float | None = None
    reason: str | None = None
    detail: str | None = None
    exit_code: int | None = None
    last_step: int | None = None
    saved_step: int | None = None
    culprits: tuple[int, ...] = ()
    attention: str | None = None
    mlp: str | None = None

    @property
    def kernels(self) -> dict[str, str]:
        """What is known of them, by what they compute."""
        found = {"attention": self.attention, "mlp": self.mlp}
        return {what: name for what, name in found.items() if name}


@dataclass(frozen=True)
class ErrorRecord:
    """What one rank has to say about the end of an attempt.

    Attributes:
        kind: ``error``, ``guard``, ``hang``, ``lost rank``, ``replicas differ`` or ``preflight``.
        step, phase: where this rank was (docs/faults.md lists the phases).
        what: one line; ``where`` and ``hint`` as in an OctoError.
        traceback: of the exception, or the stacks of all threads.
        collective: the operation between ranks that it waited in, if any.
        culprit: whether this rank failed or is behind; else it only tells what it saw.
    """

    attempt: int
    rank: int
    host: str
    pid: int
    time: float
    kind: str
    step: int
    phase: str
    what: str
    where: str | None = None
    hint: str | None = None
    collective: str | None = None
    culprit: bool = True
    traceback: str = ""

    @property
    def last_lines(self) -> list[str]:
        """The end of the traceback, for a summary."""
        return [line for line in self.traceback.splitlines() if line.strip()][-5:]


def error_path(run: str | Path, attempt: int, rank: int) -> Path:
    return Path(run) / ERRORS / f"attempt-{attempt:03d}-rank-{rank:05d}.json"


def write_error(
    run: str | Path, *, attempt: int, rank: int, kind: str, step: int, phase: str, what: str, **more: Any
) -> None:
    """Write a rank's record. A disk that cannot be written must not hide the failure itself: then there is none."""
    if trace := more.get("traceback"):
        more["traceback"] = "\n".join(trace.splitlines()[-_KEPT_LINES:])
    record = ErrorRecord(
        attempt=attempt,
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        time=time.time(),
        kind=kind,
        step=step,
        phase=phase,
        what=what,
        **more,
    )
    path = error_path(run, attempt, rank)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, asdict(record))
    except OSError:
        return


def read_errors(run: str | Path, attempt: int | None = None) -> list[ErrorRecord]:
    """Records of one attempt or of all, culprits first, then in the order of time."""
    pattern = f"attempt-{'*' if attempt is None else f'{attempt:03d}'}-rank-*.json"
    records = [ErrorRecord(**files.read_json(path)) for path in (Path(run) / ERRORS).glob(pattern)]
    return sorted(records, key=lambda record: (record.attempt, not record.culprit, record.time, record.rank))


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
    """Complete ``attempts/NNN.json``. Any rank may; the first that knows how the attempt ended is believed."""
    path = _attempt_path(run, number)
    marker = path.with_name(f".{number:03d}.end")
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError:  # another rank is writing it, or nothing can be written here
        return
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
    except OSError:
        pass
    finally:
        marker.unlink(missing_ok=True)


def _saved_step(run: str | Path) -> int | None:
    found = layout.candidates(Path(run) / layout.CHECKPOINTS)
    return int(found[0].name.removeprefix(layout.step_name(0)[:-8])) if found else None


def read_attempts(run: str | Path) -> list[Attempt]:
    """All attempts in order.

    Raises:
        OctoError: a record is broken.
    """
    return [read_attempt(run, int(path.stem)) for path in sorted((Path(run) / ATTEMPTS).glob("[0-9]*.json"))]


def read_attempt(run: str | Path, number: int) -> Attempt:
    record = files.read_json(_attempt_path(run, number))
    environment = record.get("environment", {})
    known = {key: record[key] for key in Attempt.__dataclass_fields__ if key in record}
    defaults = {
        "host": environment.get("host", ""),
        "world": 1,
        "job": environment.get("slurm_job"),
    }
    return Attempt(**{**defaults, **known, "number": number, "culprits": tuple(known.get("culprits") or ())})


def attempt_recipe(run: str | Path, number: int) -> dict[str, Any]:
    """The resolved recipe of an attempt, as a plain mapping."""
    return dict(files.read_json(_attempt_path(run, number))["recipe"])


def _attempt_path(run: str | Path, number: int) -> Path:
    return Path(run) / ATTEMPTS / f"{number:03d}.json"
