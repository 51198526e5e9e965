"""Starts of a run's training under SLURM: a line when one begins, a line when it ends, in ``RUN/slurm.jsonl``.

An end that the job could not record (a power cut, a kill) is looked up in SLURM's accounting at the next start, or,
where there is no accounting, in the run's own records.
"""

import time
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from megatron_octo.checkpoint import directory as layout
from megatron_octo.cluster import slurm
from megatron_octo.common import jsonl
from megatron_octo.common.errors import REQUEUE, USER_ERROR
from megatron_octo.common.records import Code, JobId, Moment, Number, Report, Words, checked, ignore, or_none
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import Attempt

LEDGER = "slurm.jsonl"
FINISHED, TIME_LIMIT, PREEMPTED, REQUEUED = "finished", "time limit", "preempted", "requeued"
NODE_FAILURE, CANCELLED, ERROR, NO_WORD = "node failure", "cancelled", "error", "no record of its end"
BAD_NODE = "bad node"  # nothing was started there
# Ends that are not failures: they do not count against restarts.
HARMLESS = (PREEMPTED, REQUEUED, CANCELLED, FINISHED, BAD_NODE)
_STATES = {
    "COMPLETED": FINISHED,
    "TIMEOUT": TIME_LIMIT,
    "PREEMPTED": PREEMPTED,
    "REQUEUED": REQUEUED,
    "NODE_FAIL": NODE_FAILURE,
    "BOOT_FAIL": NODE_FAILURE,
    "CANCELLED": CANCELLED,
}
_FORGIVEN = 7 * 86400.0  # seconds after which a node's failure counts no more
LIVE = ("RUNNING", "PENDING", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "REQUEUE_HOLD")


@dataclass(frozen=True)
class Start:
    """One start of the training by SLURM, and its end.

    Attributes:
        job, restart: SLURM's id, and how often it has started the job before.
        time, ended: Unix times; ``ended`` is None while it runs, and if its end is not known.
        saved, saved_after: step of the newest checkpoint before and after; 0: none.
        reason: one of the constants above, or an attempt's reason (``hang``, ``lost rank``, ``signal SIGUSR1``).
        failed_nodes: nodes whose ranks failed.
        code: exit code of srun.
    """

    job: JobId
    restart: Number
    time: Moment
    nodes: tuple[Words, ...]
    saved: Number
    ended: Moment | None = None
    reason: Words | None = None
    detail: Words | None = None
    failed_nodes: tuple[Words, ...] = ()
    saved_after: Number | None = None
    code: Code | None = None

    @property
    def progressed(self) -> bool:
        """Whether it brought a new checkpoint."""
        return (self.saved_after or 0) > self.saved


_START = TypeAdapter(Start)


def newest_checkpoint(run: Path) -> int:
    """Return the step of the newest committed checkpoint; 0 if there is none."""
    found = layout.list_checkpoints(run / layout.CHECKPOINTS)
    return layout.step_of(found[-1]) if found else 0


def write_start(run: Path, start: Start) -> None:
    """Record the beginning of a start."""
    known = {key: value for key, value in asdict(start).items() if value is not None}
    jsonl.append(run / LEDGER, {"event": "start", **known})


def write_end(run: Path, start: Start) -> None:
    """Record the end of a start."""
    keys = ("job", "restart", "ended", "reason", "detail", "failed_nodes", "saved_after", "code")
    jsonl.append(run / LEDGER, {"event": "end", **{key: getattr(start, key) for key in keys}})


def read_starts(run: Path, report: Report = ignore) -> list[Start]:
    """Read all starts in order, with the ends that were written; what is not valid is reported and passed over."""
    starts: dict[str, Start] = {}
    for record in jsonl.read(run / LEDGER, jsonl.ANY, report):
        key, begins = f"{record.get('job')} {record.get('restart')}", record.get("event") == "start"
        if begins or key in starts:  # else the line of its start was lost
            known = {**({} if begins else asdict(starts[key])), **record}
            start = or_none(lambda known=known: checked(_START, known, run / LEDGER), report)  # type: ignore[misc]
            starts |= {key: start} if start else {}
    return list(starts.values())


def attempts_of(run: Path, start: Start, until: float = float("inf")) -> list[Attempt]:
    """Return the attempts at the run that this start came to, before ``until``."""
    return [
        attempt
        for attempt in records.read_attempts(run)
        if attempt.job == start.job and start.time - 1 <= attempt.started < until
    ]


def told_by(run: Path, attempt: Attempt) -> tuple[str | None, str | None, set[str]]:
    """Return reason and detail of an attempt's end by its records, and the nodes whose ranks failed."""
    errors = [error for error in records.read_errors(run, attempt.number) if error.culprit]
    if not errors:
        return attempt.reason, attempt.detail, set()
    first = errors[0]
    what = f"rank {first.rank} on {first.host}: {first.what}"
    return first.kind, what, {error.host for error in errors}


def with_ends(
    run: Path,
    starts: list[Start],
    rows: list[slurm.Incarnation] | None = None,
    active: Collection[str] | None = None,
    begins: Start | None = None,
) -> list[Start]:
    """Return the starts with the ends that they could not record themselves; those that still run stay open.

    SLURM's accounting decides. Without it, a start is over if the job was started again, or SLURM has no such job.

    Args:
        run: the run directory.
        starts: all of its starts, in order.
        rows: accounting of their jobs; by default SLURM is asked.
        active: jobs that are not over, if that is known.
        begins: a start that is not written down yet.
    """
    unknown = {start.job for start in starts if start.ended is None}
    if rows is None:
        rows = slurm.history(sorted(unknown)) if unknown else []
    settled = []
    for number, start in enumerate(starts):
        if start.ended is None:
            after = starts[number + 1].saved if number + 1 < len(starts) else newest_checkpoint(run)
            mine = [row for row in rows if row.job == start.job]
            # The accounting lags behind: when the next start is written down, it may still lack the end of this one.
            later = [*starts[number + 1 :], *([begins] if begins and not mine else [])]
            again = next((other for other in later if other.job == start.job), None)
            gone = not mine and active is not None and start.job not in active
            start = _settle(start, mine, after)
            if start.ended is None and (again or gone):
                start = _settle_alone(run, start, again.time if again else None, after)
        settled.append(start)
    return settled


def _settle_alone(run: Path, start: Start, until: float | None, saved: int) -> Start:
    """Return a start that is certainly over with its end, from the run's own records."""
    attempts = attempts_of(run, start, until or float("inf"))
    attempt = attempts[-1] if attempts else None
    reason, detail, failed = told_by(run, attempt) if attempt else (None, None, set())
    if until and attempt and attempt.exit_code == REQUEUE and reason == "signal SIGTERM":
        # The guard records why it queues a job again; after a SIGTERM without a record SLURM has taken it back.
        reason, detail = REQUEUED, "SLURM took the job back"
    mistake = attempt is not None and attempt.exit_code == USER_ERROR
    return replace(
        start,
        ended=(attempt.ended if attempt else None) or until or _last_sign(run, start),
        reason=reason or NO_WORD,
        detail=detail,
        failed_nodes=tuple(failed) if len(failed) == 1 and not mistake else (),
        saved_after=saved,
        code=attempt.exit_code if attempt else None,
    )


def _last_sign(run: Path, start: Start) -> float:
    """Return the time of the last record of the job: of an error, or of an attempt's start."""
    attempts = {attempt.number: attempt.started for attempt in attempts_of(run, start)}
    errors = [error.time for error in records.read_errors(run) if error.attempt in attempts]
    return max([start.time, *attempts.values(), *errors])


def _settle(start: Start, rows: list[slurm.Incarnation], saved: int) -> Start:
    # The script begins a moment after the job: its incarnation is the last one that SLURM started before it.
    rows = [row for row in rows if row.start and row.start <= start.time + 2]
    if not rows or rows[-1].state in LIVE:
        return start
    row = rows[-1]
    ended = row.end or start.time
    reason = _STATES.get(row.state, ERROR)
    detail = f"SLURM says {row.state}"
    failed: tuple[str, ...] = ()
    if reason == NODE_FAILURE:
        failed = tuple(slurm.nodes_that_went_down(start.nodes, start.time, ended))
        detail = f"{', '.join(failed) or 'one of ' + ', '.join(start.nodes)} went down"
    return replace(
        start,
        ended=ended,
        reason=reason,
        detail=detail,
        failed_nodes=failed,
        saved_after=saved,
        code=row.code,
    )


def fruitless(starts: list[Start], job: str) -> int:
    """Count the last ends in a row of this job that a restart should have fixed and that brought no checkpoint."""
    count = 0
    for start in reversed([start for start in starts if start.job == job and start.ended is not None]):
        if start.progressed:
            break
        count += start.reason not in HARMLESS
    return count


def bad_nodes(starts: list[Start]) -> set[str]:
    """Return the nodes whose ranks failed twice within a week."""
    recent = [start for start in starts if time.time() - start.time < _FORGIVEN]
    failures = [name for start in recent for name in start.failed_nodes]
    return {name for name in failures if failures.count(name) > 1}
