"""How a run stands: from its own records, and from SLURM where it is asked for."""

import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import queue, snapshot
from megatron_octo.cluster.job_starts import Start
from megatron_octo.cluster.queue import Queue, StageState
from megatron_octo.common import jsonl
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import Attempt

_TAIL = 1 << 18  # bytes of metrics.jsonl that are looked at
_RECENT = 50  # steps that the ETA is counted from
_FAILURES = (
    ledger.ERROR,
    records.GUARD,
    records.HANG,
    records.LOST_RANK,
    records.REPLICAS,
    records.PREFLIGHT,
)


@dataclass(frozen=True)
class Row:
    """One start of the training: by SLURM, with the attempt at the run that came of it, or by hand.

    Attributes:
        attempt: number of the attempt; None if the training did not come so far.
        first, last: steps that it did; None: none.
        lines: last lines of the first rank that failed.
    """

    job: str | None
    attempt: int | None
    nodes: tuple[str, ...]
    started: float
    ended: float | None
    reason: str
    detail: str | None
    first: int | None = None
    last: int | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Status:
    """Attributes:
    state: finished, running, waiting, stopped, failed, cancelled or new.
    silent: what went wrong where SLURM does not answer; the rest is then what the run itself knows.
    """

    run: str
    state: str
    step: int
    steps: int
    saved: int
    loss: float | None
    seconds_left: float | None
    stages: list[StageState] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    silent: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def status_of(run: Path, asked: Queue | None = None) -> Status:
    """Everything that is known about a run.

    Args:
        asked: what SLURM says about it; by default it is asked.

    Raises:
        OctoError: the directory is no run.
    """
    recipe = snapshot.run_recipe(run)
    metrics = _last_metrics(run)
    asked = asked or queue.look([run])
    stages = queue.stages(run, asked)
    rows = _rows(run, asked)
    state = _state(run, recipe.train.steps, stages, rows)
    step = metrics[-1]["step"] if metrics else 0
    running = state == "running" and len(metrics) > 1
    return Status(
        run=str(run),
        state=state,
        step=step,
        steps=recipe.train.steps,
        saved=ledger.newest_checkpoint(run),
        loss=metrics[-1]["loss"] if metrics else None,
        seconds_left=_pace(metrics) * (recipe.train.steps - step) if running else None,
        stages=stages,
        rows=rows,
        silent=asked.silent,
    )


def _last_metrics(run: Path) -> list[dict[str, Any]]:
    """The last steps; the file of a long run is not read as a whole."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")[0 if path.stat().st_size <= _TAIL else 1 : -1]
    return jsonl.parse(lines)


def _pace(metrics: list[dict[str, Any]]) -> float:
    """Seconds a step, in the middle of the last ones: a save or a hiccup does not count."""
    seconds = sorted(record["step_s"] for record in metrics[-_RECENT:])
    return float(seconds[len(seconds) // 2])


def _rows(run: Path, asked: Queue) -> list[Row]:
    starts = ledger.with_ends(run, ledger.read_starts(run), asked.rows, asked.waiting)
    attempts = records.read_attempts(run)
    steps = _steps(run)
    rows, used = [], set[int]()
    for number, start in enumerate(starts):
        until = starts[number + 1].time if number + 1 < len(starts) else float("inf")
        mine = [a for a in attempts if a.job == start.job and start.time - 1 <= a.started < until]
        used |= {attempt.number for attempt in mine}
        rows.append(_row_of(run, start, mine[-1] if mine else None, steps))
    rows += [_row_by_hand(run, attempt, steps) for attempt in attempts if attempt.number not in used]
    return sorted(rows, key=lambda row: row.started)


def _steps(run: Path) -> dict[int, tuple[int, int]]:
    """First and last step of each attempt."""
    found: dict[int, tuple[int, int]] = {}
    for record in jsonl.read(run / "metrics.jsonl"):
        first = found.get(record["attempt"], (record["step"], 0))[0]
        found[record["attempt"]] = first, record["step"]
    return found


def _row_of(run: Path, start: Start, attempt: Attempt | None, steps: dict[int, tuple[int, int]]) -> Row:
    reason = start.reason or ("running" if start.ended is None else ledger.ERROR)
    first, last = steps.get(attempt.number, (None, None)) if attempt else (None, None)
    return Row(
        start.job, attempt.number if attempt else None, start.nodes, start.time, start.ended, reason,
        start.detail, first, last, _lines(run, attempt, reason),
    )  # fmt: skip


def _row_by_hand(run: Path, attempt: Attempt, steps: dict[int, tuple[int, int]]) -> Row:
    reason = attempt.reason or ledger.NO_WORD
    first, last = steps.get(attempt.number, (None, None))
    return Row(
        attempt.job, attempt.number, (attempt.host,), attempt.started, attempt.ended, reason, attempt.detail,
        first, last, _lines(run, attempt, reason),
    )  # fmt: skip


def _lines(run: Path, attempt: Attempt | None, reason: str) -> tuple[str, ...]:
    """What the first rank that failed said last."""
    if attempt is None or reason in (*ledger.HARMLESS, ledger.TIME_LIMIT, ledger.NODE_FAILURE):
        return ()
    errors = [error for error in records.read_errors(run, attempt.number) if error.culprit]
    return tuple(errors[0].last_lines) if errors else ()


def _state(run: Path, steps: int, stages: list[StageState], rows: list[Row]) -> str:
    try:
        record = read_json(run / "state.json")
    except OctoError:
        record = {}
    if record.get("status") == "finished" and record.get("step", 0) >= steps:
        return "finished"
    train = next((stage for stage in stages if stage.stage == "train"), None)
    if train and train.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD"):
        return "waiting"
    if train and train.state in ("RUNNING", "CONFIGURING"):
        return "running"
    if rows and rows[-1].ended is None:
        return "running" if _is_alive(run, rows[-1]) else "stopped"
    if train and train.state not in ("COMPLETED", "UNKNOWN"):
        return "cancelled" if train.state.startswith("CANCELLED") else "failed"
    if rows:
        return "failed" if rows[-1].reason in _FAILURES else "stopped"
    return "new"


def _is_alive(run: Path, row: Row) -> bool:
    """Whether a training by hand or by ``sbatch`` still shows signs of life."""
    lock = run / "lock"
    return lock.exists() and time.time() - lock.stat().st_mtime < 120


def render(status: Status) -> str:
    """The status as lines for a terminal."""
    share = status.step / status.steps
    progress = f"step {status.step:,} of {status.steps:,} ({share:.0%}), saved at {status.saved:,}"
    if status.loss is not None:
        progress += f", loss {status.loss:.4f}"
    if status.seconds_left is not None:
        progress += f", {_duration(status.seconds_left)} left"
    lines = [f"run       {status.run}", f"state     {status.state}", f"progress  {progress}"]
    if status.silent:
        lines.append(f"SLURM     does not answer ({status.silent}): this is what the run's own records say")
    for number, stage in enumerate(status.stages):
        why = f" ({stage.why})" if stage.why else ""
        lines.append(
            f"{'stages' if not number else '':<10}{stage.stage:<11}job {stage.job}  {stage.state}{why}"
        )
    for number, row in enumerate(status.rows, 1):
        lines += _row_lines(number, row)
    return "\n".join(lines)


def _row_lines(number: int, row: Row) -> list[str]:
    job = f"job {row.job}" if row.job else "by hand"
    begun = time.strftime("%m-%d %H:%M:%S", time.localtime(row.started))
    lasted = _duration((row.ended or time.time()) - row.started)
    steps = f"steps {row.first}-{row.last}" if row.first is not None else "no step"
    reason = row.reason + (f": {row.detail}" if row.detail else "")
    text = f"{job}  {begun}  {lasted}  {','.join(row.nodes)}  {steps}  {reason}"
    label = f"{'starts' if number == 1 else '':<10}"
    return [f"{label}{number:<3}{text}", *(f"{'':<15}| {line}" for line in row.lines)]


def _duration(seconds: float) -> str:
    whole = int(max(0, seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def find_runs(folder: Path) -> list[Path]:
    """Run directories in a folder, two levels deep."""
    found = []
    for path in sorted([*folder.glob("*/recipe.yaml"), *folder.glob("*/*/recipe.yaml")]):
        run = path.parent.parent if path.parent.name == "submit" else path.parent
        if run not in found and (run.name != "submit"):
            found.append(run)
    return found


def newest_log(run: Path, stage: str | None) -> Path:
    """The log that was written to last.

    Raises:
        OctoError: there is none.
    """
    logs = [*(run / "submit" / "logs").glob(f"{stage or '*'}-*.log")]
    if stage in (None, "train"):
        logs += [*(run / "logs").glob("*.log")] if not logs else []
    if not logs:
        raise OctoError(
            "no log yet", where=run / "submit" / "logs", hint="python -m megatron_octo.submit status RUN"
        )
    return max(logs, key=os.path.getmtime)
