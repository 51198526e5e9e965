"""Decide before and after every start of a training in a SLURM job whether it starts and is queued again.

    python -m megatron_octo.cluster.job_guard before RECIPE [a.b=c ...]           prints a free port; none: finished
    python -m megatron_octo.cluster.job_guard after --code N RECIPE [a.b=c ...]   exits with N, or requeues the job

It runs on the job's first node, imports no torch, and keeps ``RUN/slurm.jsonl``.
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from megatron_octo.cluster import job_starts as ledger
from megatron_octo.cluster import slurm
from megatron_octo.cluster.job_starts import Start
from megatron_octo.cluster.script import LOGS
from megatron_octo.common.errors import FAULT, REQUEUE, USER_ERROR, OctoError, run_command
from megatron_octo.common.ports import free_port_of_job
from megatron_octo.common.terminal import printable
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.run_lock import owner_of

# Seconds: SLURM's signal before the time limit may come so much earlier, and saving takes its time.
_SOON = 180.0
_GOING = 60.0  # seconds to wait for SLURM to end a job that was requeued


def build_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.cluster.job_guard",
        description="Decide, in a SLURM job, whether a training starts, and whether the job is queued again.",
    )
    parser.add_argument("moment", choices=("before", "after"))
    parser.add_argument("recipe", help="recipe file, as for the training")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--code", type=int, default=0, help="after: exit code of srun")
    parser.add_argument(
        "--max-restarts", type=int, default=3, metavar="N",
        help="stop after N restarts in a row that bring no new checkpoint (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--signal-seconds", type=int, default=120, metavar="N",
        help="before the time limit sbatch's --signal comes (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Decide before or after a start; returns the exit code."""
    arguments = build_parser().parse_intermixed_args(argv)
    if "SLURM_JOB_ID" not in os.environ:
        raise OctoError("this runs in a SLURM job", hint="sbatch a script of slurm/, or RUN/submit.sh")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    run, steps = Path(recipe.run_dir), recipe.train.steps
    guard = Guard(run, steps, arguments.max_restarts, arguments.signal_seconds)
    return guard.before() if arguments.moment == "before" else guard.after(arguments.code)


def say(text: str) -> None:
    """Print one line with the time into the job's log."""
    print(f"{time.strftime('%FT%T')} {text}", file=sys.stderr, flush=True)


class Guard:
    """Decisions about one start of a job.

    Args:
        steps: of the whole training.
        most: restarts in a row without a new checkpoint.
        signal_seconds: before the time limit comes a signal.
    """

    def __init__(self, run: Path, steps: int, most: int, signal_seconds: int = 120):
        self.run, self.steps, self.most, self.signal_seconds = run, steps, most, signal_seconds
        self.job = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)  # not set at the first start

    def before(self) -> int:
        """Print a port, or nothing if there is nothing to do; return the exit code."""
        nodes = slurm.hosts(os.environ.get("SLURM_JOB_NODELIST", ""))
        start = Start(self.job, self.restart, time.time(), tuple(nodes), ledger.newest_checkpoint(self.run))
        self._settle(start)
        starts = ledger.read_starts(self.run)
        if records.is_finished(self.run, self.steps):
            say(f"{self.run} is finished")
            return 0
        if (count := ledger.fruitless(starts, self.job)) > self.most:
            say(f"giving up: {count} starts in a row brought no new checkpoint; see submit status {self.run}")
            return FAULT
        bad = ledger.bad_nodes(starts)
        if bad & set(nodes) and (away := self._can_do_without(bad)):
            what = f"{', '.join(sorted(bad & set(nodes)))} failed twice"
            if not starts or (starts[-1].job, starts[-1].reason) != (self.job, ledger.BAD_NODE):
                say(f"{what}: queueing the job again, for other nodes")
                ledger.write_start(self.run, start)
                end = replace(start, ended=time.time(), reason=ledger.BAD_NODE, detail=what)
                ledger.write_end(self.run, replace(end, saved_after=start.saved))
                return self._requeue(away)
            # Queueing it again and again would train nothing.
            say(f"{what}, and SLURM did not leave them out: starting here all the same")
        ledger.write_start(self.run, start)
        say(f"job {self.job}, start {self.restart} on {', '.join(nodes)}, from step {start.saved}")
        print(free_port_of_job(int(self.job)), flush=True)
        return 0

    def _settle(self, start: Start) -> None:
        """Record the ends of earlier starts that could not do so themselves; ``start`` is the next one."""
        before = ledger.read_starts(self.run)
        for old, new in zip(before, ledger.with_ends(self.run, before, begins=start)):
            if old.ended is None and new.ended is not None:
                ledger.write_end(self.run, new)

    def after(self, code: int) -> int:
        """Record the end of this start and queue the job again if that helps; return the exit code."""
        # What ends the job may signal this process, too; it has to write its record first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        mine = [
            start for start in ledger.read_starts(self.run) if (start.job, start.restart) == (self.job, self.restart)
        ]
        fields = slurm.job_fields(self.job)
        state = fields.get("JobState", "RUNNING")
        if state == "COMPLETING" and fields.get("Reason") == "TimeLimit":
            state = "TIMEOUT"  # SLURM does not queue it again by itself
        if state not in ("RUNNING", "TIMEOUT", "CANCELLED") or not mine:
            # SLURM has taken the job back already (preemption, requeue, a lost node) and records why.
            say(f"the job is {state}: srun ended with {code}")
            return code
        start = replace(self._end(mine[-1], code, state, fields), ended=time.time(), code=code)
        ledger.write_end(self.run, start)
        starts = ledger.read_starts(self.run)
        say(
            f"end: {start.reason}"
            + (f" ({start.detail})" if start.detail else "")
            + f"; saved step {start.saved_after}"
        )
        if why := self._no_restart(start, starts, state):
            say(why)
            return code
        bad = ledger.bad_nodes(starts)
        away = self._can_do_without(bad) if bad else set()
        say(f"queueing job {self.job} again" + (f", without {', '.join(sorted(away))}" if away else ""))
        return self._requeue(away)

    def _end(self, start: Start, code: int, state: str, fields: dict[str, str]) -> Start:
        """Return the start with the reason of its end, from the records of the ranks and of SLURM."""
        saved = ledger.newest_checkpoint(self.run)
        attempt = self._attempt(start)
        said, detail, failed = ledger.told_by(self.run, attempt) if attempt else (None, None, set[str]())
        reason, detail = (
            said or ledger.ERROR,
            detail or _last_error(self.run, self.job, fields) or f"srun ended with {code}",
        )
        if code == 0:
            reason, detail = ledger.FINISHED, ""
        elif state == "CANCELLED":
            reason, detail = ledger.CANCELLED, ""
        elif state == "TIMEOUT" or (attempt and attempt.reason == records.WALL_CLOCK):
            reason, detail = ledger.TIME_LIMIT, ""
        elif code == REQUEUE:
            reason, detail = self._asked(attempt, fields), ""
        mistake = code == USER_ERROR or bool(attempt and attempt.exit_code == USER_ERROR)
        return replace(
            start,
            reason=reason,
            detail=detail or None,
            saved_after=saved,
            # Failures on several nodes at once are the program's, not the nodes'.
            failed_nodes=tuple(failed) if reason == said and len(failed) == 1 and not mistake else (),
        )

    def _attempt(self, start: Start) -> records.Attempt | None:
        attempts = ledger.attempts_of(self.run, start)
        return attempts[-1] if attempts else None

    def _asked(self, attempt: records.Attempt | None, fields: dict[str, str]) -> str:
        """Return why a training saved and left: its own record has only the name of a signal."""
        if fields.get("PreemptTime", "None").isdigit():
            return ledger.PREEMPTED
        end = fields.get("EndTime", "")
        soon = end.isdigit() and float(end) - time.time() < self.signal_seconds + _SOON
        if soon and (attempt is None or attempt.reason != "signal SIGTERM"):
            return ledger.TIME_LIMIT
        return attempt.reason if attempt and attempt.reason else "signal"

    def _no_restart(self, start: Start, starts: list[Start], state: str) -> str | None:
        """Return why the job is not queued again, or None."""
        if start.reason == ledger.FINISHED:
            return "finished"
        if state == "CANCELLED":
            return "the job was cancelled: it is not queued again"
        attempt = self._attempt(start)
        if start.code == USER_ERROR or (attempt and attempt.exit_code == USER_ERROR):
            return "an error that a restart does not fix"
        owner = owner_of(self.run)
        if owner and owner.job not in (None, self.job) and _is_active(owner.job):
            return f"another job trains in this run directory: {owner}"
        if (count := ledger.fruitless(starts, self.job)) > self.most:
            return f"giving up: {count} starts in a row brought no new checkpoint"
        return None

    def _can_do_without(self, bad: set[str]) -> set[str]:
        """Return the nodes to exclude, with those that are already; none if too few would be left."""
        fields = slurm.job_fields(self.job)
        excluded = set(slurm.hosts(fields.get("ExcNodeList", "").replace("(null)", "")))
        away = bad | excluded
        try:
            left = slurm.partition_nodes(fields.get("Partition", "")) - away
        except OctoError as error:  # the job is worth more than the choice of its nodes
            say(f"{', '.join(sorted(bad))} failed twice, but SLURM does not say what else there is: {error.what}")
            return set()
        needed = int(fields.get("NumNodes", "1").partition("-")[0])
        if len(left) < needed:
            say(f"{', '.join(sorted(bad))} failed twice, but without them {len(left)} of {needed} nodes are left")
            return set()
        return away

    def _requeue(self, away: set[str]) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        slurm.requeue(self.job, away)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GOING)  # SLURM ends this script
        return REQUEUE


def _last_error(run: Path, job: str, fields: dict[str, str]) -> str | None:
    """Return the last error message in the job's log: of a start that ended before there was an attempt."""
    for path in (run / LOGS / f"train-{job}.log", Path(fields.get("StdOut", "/dev/null"))):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        if said := [line for line in lines if line.startswith("error: ")]:
            return printable(said[-1].removeprefix("error: "))
    return None


def _is_active(job: str | None) -> bool:
    try:
        return job in slurm.active()
    except OctoError:  # the lock of the run knows, too, when the training starts
        return False


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
