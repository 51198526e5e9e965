"""Jobs of runs in SLURM: those that are not over, and how the others ended. SLURM is asked once for all runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import slurm, snapshot
from megatron_octo.cluster.slurm import Incarnation, Waiting
from megatron_octo.common.errors import OctoError


@dataclass(frozen=True)
class StageState:
    """The newest job of a stage: PENDING, RUNNING, COMPLETED, FAILED, ..., or UNKNOWN; ``why`` in SLURM's words."""

    stage: str
    job: str | None
    state: str
    why: str = ""


@dataclass(frozen=True)
class Queue:
    """SLURM's answer about some runs.

    Attributes:
        waiting: this user's jobs that are not over; None: not known.
        rows: every start of the runs' jobs, from the accounting.
        silent: the error where SLURM is installed and does not answer.
    """

    waiting: dict[str, Waiting] | None = None
    rows: list[Incarnation] = field(default_factory=list)
    silent: str | None = None

    def of(self, run: Path) -> "Queue":
        """Return the same without the jobs of other runs, such as the one that this run is a copy of."""
        mine = self.waiting and {job: entry for job, entry in self.waiting.items() if not _is_of_another(run, entry)}
        return Queue(mine, self.rows, self.silent)


def look(runs: Iterable[Path]) -> Queue:
    """Ask SLURM about these runs; no answer is no error."""
    jobs = {job for run in runs for job in _known_jobs(run)}
    if not jobs or not slurm.installed():
        return Queue()
    try:
        waiting, silent = slurm.active(), None
    except OctoError as error:
        waiting, silent = None, error.what
    return Queue(waiting, slurm.history(sorted(jobs)), silent)


def _newest_jobs(run: Path) -> dict[str, str]:
    return {record["stage"]: record["job"] for record in snapshot.read_jobs(run)}


def _known_jobs(run: Path) -> set[str]:
    open_ones = {start.job for start in ledger.read_starts(run) if start.ended is None}
    return {*_newest_jobs(run).values(), *open_ones}


def stages(run: Path, queue: Queue) -> list[StageState]:
    """Return the state of the newest job of each stage that was submitted."""
    found = []
    for stage, job in _newest_jobs(run).items():
        waiting = (queue.waiting or {}).get(job)
        if waiting and waiting.state != "COMPLETING":
            why = "" if waiting.why == "None" else waiting.why
            found.append(StageState(stage, job, waiting.state, why))
        elif queue.waiting is not None or queue.silent:
            found.append(StageState(stage, job, *state_of(job, queue.rows)))
    return found


def state_of(job: str, rows: list[Incarnation]) -> tuple[str, str]:
    """Return state and reason of a job's last start; of an array, those of its worst task."""
    last = {row.task: row for row in rows if row.job == job}
    worst = max(last.values(), key=lambda row: _badness(row.state), default=None)
    return (worst.state, worst.why) if worst else ("UNKNOWN", "")


def _badness(state: str) -> int:
    if state in ledger.LIVE:
        return 3  # not over: its end is not known yet
    return {"COMPLETED": 0, "CANCELLED": 1}.get(state, 2)


def jobs_not_over(run: Path) -> list[tuple[str, str]]:
    """Return stage and id of the run's jobs that wait or run, in the order of the chain; those submitted by hand, too.

    Raises:
        OctoError: SLURM does not answer.
    """
    submitted = {record["job"]: record["stage"] for record in snapshot.read_jobs(run)}
    started = {start.job for start in ledger.read_starts(run)}
    if not submitted and not started and not (run / "submit").is_dir():
        return []
    waiting = Queue(slurm.active()).of(run).waiting or {}
    found = {job: stage for job, stage in submitted.items() if job in waiting}
    for job, entry in waiting.items():
        if job not in submitted and (job in started or _is_script_of(run, entry.script)):
            found[job] = "train" if job in started else _stage_of(Path(entry.script))
    return [(stage, job) for job, stage in found.items()]


def _is_script_of(run: Path, script: str) -> bool:
    """Return whether a job runs ``RUN/submit.sh`` or ``RUN/submit/STAGE.sh``."""
    folder = run.resolve()
    return script.startswith("/") and Path(script).resolve().parent in (folder, folder / "submit")


def _is_of_another(run: Path, entry: Waiting) -> bool:
    """Return whether a job runs a script that lies in another run directory."""
    folder = Path(entry.script).parent
    folder = folder.parent if folder.name == "submit" else folder
    return (folder / "submit" / "order.json").is_file() and not _is_script_of(run, entry.script)


def _stage_of(script: Path) -> str:
    return "train" if script.name == "submit.sh" else script.stem


def check_idle(run: Path) -> None:
    """Refuse to submit a run twice.

    Raises:
        OctoError: a job of the run is not over.
    """
    if busy := [f"{stage} {job}" for stage, job in jobs_not_over(run)]:
        raise OctoError(
            f"this run has jobs already: {', '.join(busy)}",
            where=run,
            hint="python -m megatron_octo.submit status (or cancel) RUN",
        )
