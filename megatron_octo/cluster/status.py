"""State of a run: from its own records, and from SLURM where it is installed."""

import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import queue, snapshot
from megatron_octo.cluster.job_starts import Start
from megatron_octo.cluster.queue import Queue, StageState
from megatron_octo.cluster.script import LOGS
from megatron_octo.common import jsonl
from megatron_octo.common.durations import duration
from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import Attempt
from megatron_octo.runfiles.run_lock import sign_of_life
from megatron_octo.runfiles.scores import Score, read_result
from megatron_octo.runfiles.steps import StepLine, read_steps

_JOB = re.compile(r"\d+(_\d+)?", re.ASCII)
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
        first, last: steps that it did; None: none, or not known.
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
    """State of a run.

    Attributes:
        state: finished, running, waiting, stopped, failed, cancelled or new.
        silent: the error where SLURM does not answer; the rest then comes from the run's own records.
        problems: records that were passed over, and why.
        scores: pass@1 by task, of the stage evaluate.
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
    problems: list[str] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value."""
        return asdict(self)


def status_of(run: Path, asked: Queue | None = None) -> Status:
    """Collect the state of a run.

    Args:
        run: the run directory.
        asked: SLURM's answer about it; by default SLURM is asked.

    Raises:
        OctoError: the directory is no run.
    """
    recipe = snapshot.run_recipe(run)
    problems: list[str] = []
    metrics = read_steps(run, problems.append, tail=jsonl.TAIL)
    asked = (asked or queue.look([run])).of(run)
    snapshot.read_jobs(run, problems.append)
    stages = queue.stages(run, asked)
    rows = _rows(run, asked, metrics, problems)
    records.read_state(run, problems.append)
    state = _state(run, recipe.train.steps, stages, rows)
    scores = read_result(run, problems.append)
    step = metrics[-1]["step"] if metrics else 0
    pace = median([line["step_s"] or 0.0 for line in metrics[-_RECENT:] if line.get("step_s")] or [0.0])
    return Status(
        run=str(run),
        state=state,
        step=step,
        steps=recipe.train.steps,
        saved=ledger.newest_checkpoint(run),
        loss=metrics[-1].get("loss") if metrics else None,
        # The median: a save or a hiccup does not count.
        seconds_left=pace * (recipe.train.steps - step) if state == "running" and len(metrics) > 1 else None,
        stages=stages,
        rows=rows,
        silent=asked.silent,
        problems=list(dict.fromkeys(problems)),
        scores=scores,
    )


def _rows(run: Path, asked: Queue, metrics: list[StepLine], problems: list[str]) -> list[Row]:
    starts = ledger.with_ends(run, ledger.read_starts(run, problems.append), asked.rows, asked.waiting)
    attempts = records.read_attempts(run, problems.append)
    records.read_errors(run, report=problems.append)
    steps = _steps(metrics)
    rows, used = [], set[int]()
    for number, start in enumerate(starts):
        until = starts[number + 1].time if number + 1 < len(starts) else float("inf")
        mine = [a for a in attempts if a.job == start.job and start.time - 1 <= a.started < until]
        used |= {attempt.number for attempt in mine}
        rows.append(_row(run, start, mine[-1] if mine else None, steps))
    rows += [_row(run, None, attempt, steps) for attempt in attempts if attempt.number not in used]
    return sorted(rows, key=lambda row: row.started)


def _steps(metrics: list[StepLine]) -> dict[int, tuple[int | None, int]]:
    """Return first and last step of the attempts at the end of the metrics; None where the first is further back."""
    found: dict[int, tuple[int | None, int]] = {}
    for number, line in enumerate(metrics):
        attempt = line.get("attempt")
        if attempt is not None:
            begins = number or line["step"] == 1
            first = found[attempt][0] if attempt in found else line["step"] if begins else None
            found[attempt] = first, line["step"]
    return found


def _row(run: Path, start: Start | None, attempt: Attempt | None, steps: dict[int, tuple[int | None, int]]) -> Row:
    first, last = steps.get(attempt.number, (None, attempt.last_step)) if attempt else (None, None)
    if start and first is None and last is not None and last > start.saved:
        first = start.saved + 1
    number = attempt.number if attempt else None
    if start:
        reason = start.reason or ("running" if start.ended is None else ledger.ERROR)
        return Row(
            start.job, number, start.nodes, start.time, start.ended, reason, start.detail, first, last,
            _lines(run, attempt, reason),
        )  # fmt: skip
    assert attempt
    reason = attempt.reason or ledger.NO_WORD
    return Row(
        attempt.job, number, (attempt.host,), attempt.started, attempt.ended, reason, attempt.detail, first, last,
        _lines(run, attempt, reason),
    )  # fmt: skip


def _lines(run: Path, attempt: Attempt | None, reason: str) -> tuple[str, ...]:
    """Return the end of the traceback of the first rank that failed."""
    if attempt is None or reason in (*ledger.HARMLESS, ledger.TIME_LIMIT, ledger.NODE_FAILURE):
        return ()
    errors = [error for error in records.read_errors(run, attempt.number) if error.culprit]
    return tuple(errors[0].last_lines) if errors else ()


def _state(run: Path, steps: int, stages: list[StageState], rows: list[Row]) -> str:
    if records.is_finished(run, steps):
        return "finished"
    train = next((stage for stage in stages if stage.stage == "train"), None)
    if train and train.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD"):
        return "waiting"
    if train and train.state in ("RUNNING", "CONFIGURING"):
        return "running"
    if rows and rows[-1].ended is None:
        return "running" if sign_of_life(run)[0] else "stopped"
    if train and train.state not in ("COMPLETED", "UNKNOWN"):
        return "cancelled" if train.state.startswith("CANCELLED") else "failed"
    if rows:
        return "failed" if rows[-1].reason in _FAILURES else "stopped"
    return "new"


def render(status: Status) -> str:
    """Return the status as lines for a terminal."""
    share = status.step / status.steps
    progress = f"step {status.step:,} of {status.steps:,} ({share:.0%}), saved at {status.saved:,}"
    if status.loss is not None:
        progress += f", loss {status.loss:.4f}"
    if status.seconds_left is not None:
        progress += f", {duration(status.seconds_left)} left"
    lines = [f"run       {printable(status.run)}", f"state     {status.state}", f"progress  {progress}"]
    if status.silent:
        lines.append(f"SLURM     does not answer ({printable(status.silent)}): this is from the run's own records")
    for number, stage in enumerate(status.stages):
        why = f" ({stage.why})" if stage.why else ""
        lines.append(f"{'stages' if not number else '':<10}{stage.stage:<11}job {stage.job}  {stage.state}{why}")
    for number, (name, score) in enumerate(status.scores.items()):
        lines.append(f"{'' if number else 'scores':<10}{printable(name)}  pass@1 {score}")
    for number, row in enumerate(status.rows, 1):
        lines += _row_lines(number, row)
    return "\n".join([*lines, *problem_lines(status.problems)])


def problem_lines(problems: list[str]) -> list[str]:
    """Return the records that were passed over as lines for a terminal."""
    return [f"{'' if number else 'ignored':<10}{printable(text)}" for number, text in enumerate(problems)]


def _row_lines(number: int, row: Row) -> list[str]:
    job = f"job {row.job}" if row.job else "by hand"
    begun = time.strftime("%m-%d %H:%M:%S", time.localtime(row.started))
    lasted = duration((row.ended or time.time()) - row.started)
    steps = "no step" if row.last is None else f"steps {row.first or '?'}-{row.last}"
    reason = row.reason + (f": {row.detail}" if row.detail else "")
    text = f"{job}  {begun}  {lasted}  {','.join(row.nodes)}  {steps}  {reason}"
    label = f"{'starts' if number == 1 else '':<10}"
    return [f"{label}{number:<3}{text}", *(f"{'':<15}| {line}" for line in row.lines)]


def find_runs(folder: Path) -> list[Path]:
    """Return the run directories in a folder, two levels deep."""
    found = []
    for path in sorted([*folder.glob(f"*/{records.RECIPE}"), *folder.glob(f"*/*/{records.RECIPE}")]):
        run = path.parent.parent if path.parent.name == "submit" else path.parent
        if run not in found and run.name != "submit":
            found.append(run)
    return found


def newest_log(run: Path, stage: str | None) -> tuple[Path, str]:
    """Return the log of the newest job, or attempt by hand, and its name in words.

    Raises:
        OctoError: there is none.
    """
    found = []
    for path in (run / LOGS).glob("*.log"):
        name, _, job = path.stem.rpartition("-")
        if name and stage in (None, name) and _JOB.fullmatch(job) and path.is_file():
            found.append(([int(part) for part in job.split("_")], path, f"job {job}, {printable(name)}"))
    if not found and stage in (None, "train"):
        found = [
            ([int(number)], path, f"attempt {int(number)}, by hand")
            for path in (run / records.LOGS).glob("attempt-*.log")
            if _JOB.fullmatch(number := path.stem.removeprefix("attempt-")) and path.is_file()
        ]
    if not found:
        raise OctoError("no log yet", where=run / LOGS, hint="python -m megatron_octo.submit status RUN")
    return max(found)[1:]
