"""The starts of a run's training under SLURM: a line when one begins, a line when it ends, in ``RUN/slurm.jsonl``.

What ends without a word (a power cut, a kill) is looked up in SLURM's accounting at the next start.
"""

import json
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint import layout
from megatron_octo.cluster import slurm

LEDGER = "slurm.jsonl"
FINISHED, TIME_LIMIT, PREEMPTED, REQUEUED = "finished", "time limit", "preempted", "requeued"
NODE_FAILURE, CANCELLED, ERROR, GAVE_UP = "node failure", "cancelled", "error", "gave up"
# Ends that are nobody's fault: they say nothing about whether a restart helps.
HARMLESS = (PREEMPTED, REQUEUED, CANCELLED, FINISHED)
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
_LIVE = ("RUNNING", "PENDING", "COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "REQUEUE_HOLD")


@dataclass(frozen=True)
class Start:
    """One start of the training by SLURM, and its end.

    Attributes:
        job, restart: SLURM's id, and how often it has started the job before.
        time, ended: Unix times; ``ended`` is None while it runs (or nobody knows better).
        saved, saved_after: step of the newest checkpoint before and after; 0: none.
        reason: one of the constants above, or an attempt's reason (``hang``, ``lost rank``, ``signal SIGUSR1``).
        failed_nodes: nodes that are to blame.
        code: exit code of srun.
    """

    job: str
    restart: int
    time: float
    nodes: tuple[str, ...]
    saved: int
    ended: float | None = None
    reason: str | None = None
    detail: str | None = None
    failed_nodes: tuple[str, ...] = ()
    saved_after: int | None = None
    code: int | None = None

    @property
    def progressed(self) -> bool:
        return (self.saved_after or 0) > self.saved


def newest_checkpoint(run: Path) -> int:
    """Step of the newest committed checkpoint; 0 if there is none."""
    found = layout.list_checkpoints(run / layout.CHECKPOINTS)
    return int(re.sub(r"\D", "", found[-1].name)) if found else 0


def _append(run: Path, **record: Any) -> None:
    run.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=False) + "\n"
    handle = os.open(run / LEDGER, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def write_start(run: Path, start: Start) -> None:
    _append(run, event="start", **{key: value for key, value in asdict(start).items() if value is not None})


def write_end(run: Path, start: Start) -> None:
    keys = ("job", "restart", "ended", "reason", "detail", "failed_nodes", "saved_after", "code")
    _append(run, event="end", **{key: getattr(start, key) for key in keys})


def read_starts(run: Path) -> list[Start]:
    """All starts in order, with the ends that were written."""
    path = run / LEDGER
    if not path.is_file():
        return []
    starts: dict[tuple[str, int], Start] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line that a power cut left unfinished
            continue
        key, event = (record["job"], record["restart"]), record.pop("event")
        for name in ("nodes", "failed_nodes"):
            if name in record:
                record[name] = tuple(record[name])
        starts[key] = Start(**record) if event == "start" else replace(starts[key], **record)
    return list(starts.values())


def with_ends(run: Path, starts: list[Start]) -> list[Start]:
    """Ends from SLURM's accounting for the starts that have none of their own; those that run still stay open."""
    unknown = {start.job for start in starts if start.ended is None}
    rows = slurm.history(sorted(unknown)) if unknown else []
    settled = []
    for number, start in enumerate(starts):
        if start.ended is None:
            after = starts[number + 1].saved if number + 1 < len(starts) else newest_checkpoint(run)
            start = _settle(start, [row for row in rows if row.job == start.job], after)
        settled.append(start)
    return settled


def _settle(start: Start, rows: list[slurm.Incarnation], saved: int) -> Start:
    # The script begins a moment after the job: its incarnation is the last one that SLURM started before it.
    rows = [row for row in rows if row.start and row.start <= start.time + 2]
    if not rows or rows[-1].state in _LIVE:
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
    """Ends in a row of this job that brought no new checkpoint and that a restart was to mend."""
    count = 0
    for start in reversed([start for start in starts if start.job == job and start.ended is not None]):
        if start.progressed:
            break
        count += start.reason not in HARMLESS
    return count


def bad_nodes(starts: list[Start]) -> set[str]:
    """Nodes that were to blame twice within a week."""
    recent = [start for start in starts if time.time() - start.time < _FORGIVEN]
    failures = [name for start in recent for name in start.failed_nodes]
    return {name for name in failures if failures.count(name) > 1}
