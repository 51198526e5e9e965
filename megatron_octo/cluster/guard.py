"""Before and after every start of a training in a SLURM job: go, stop, or start again. The scripts call it.

    python -m megatron_octo.cluster.guard before RECIPE [a.b=c ...]           prints a free port; nothing: finished
    python -m megatron_octo.cluster.guard after --code N RECIPE [a.b=c ...]   exits with N, or requeues the job

It runs on the job's first node, imports no torch, and keeps ``RUN/slurm.jsonl``.
"""

import argparse
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

from megatron_octo.cluster import ledger, slurm
from megatron_octo.cluster.ledger import Start
from megatron_octo.errors import FAULT, REQUEUE, USER_ERROR, OctoError, run_command
from megatron_octo.files import read_json
from megatron_octo.recipe import load_recipe
from megatron_octo.training import records
from megatron_octo.training.lock import owner_of

_SOON = 300.0  # seconds before the limit: a signal then is the one before the time limit
_GOING = 60.0  # seconds to wait for SLURM to end a job that was requeued


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.cluster.guard",
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
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_intermixed_args(argv)
    if "SLURM_JOB_ID" not in os.environ:
        raise OctoError("this belongs into a SLURM job", hint="sbatch a script of slurm/, or RUN/submit.sh")
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    guard = Guard(Path(recipe.run_dir), recipe.train.steps, arguments.max_restarts)
    return guard.before() if arguments.moment == "before" else guard.after(arguments.code)


def say(text: str) -> None:
    print(f"{time.strftime('%FT%T')} {text}", file=sys.stderr, flush=True)


class Guard:
    """Decisions about one start of a job.

    Args:
        steps: of the whole training.
        most: restarts in a row without a new checkpoint.
    """

    def __init__(self, run: Path, steps: int, most: int):
        self.run, self.steps, self.most = run, steps, most
        self.job = os.environ["SLURM_JOB_ID"]
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)  # not set at the first start

    def before(self) -> int:
        """Print a port, or nothing if there is nothing to do; returns the exit code."""
        self._settle()
        starts = ledger.read_starts(self.run)
        if _is_finished(self.run, self.steps):
            say(f"{self.run} is finished")
            return 0
        if (count := ledger.fruitless(starts, self.job)) > self.most:
            say(f"giving up: {count} starts in a row brought no new checkpoint; see submit status {self.run}")
            return FAULT
        nodes = slurm.hosts(os.environ.get("SLURM_JOB_NODELIST", ""))
        bad = ledger.bad_nodes(starts)
        if bad & set(nodes) and (away := self._can_do_without(bad)):
            say(
                f"{', '.join(sorted(bad & set(nodes)))} failed twice: queueing the job again, for other nodes"
            )
            return self._requeue(away)
        start = Start(self.job, self.restart, time.time(), tuple(nodes), ledger.newest_checkpoint(self.run))
        ledger.write_start(self.run, start)
        say(f"job {self.job}, start {self.restart} on {', '.join(nodes)}, from step {start.saved}")
        print(_free_port(int(self.job)), flush=True)
        return 0

    def _settle(self) -> None:
        """Write down how earlier starts ended that could not say it themselves."""
        before = ledger.read_starts(self.run)
        for old, new in zip(before, ledger.with_ends(self.run, before)):
            if old.ended is None and new.ended is not None:
                ledger.write_end(self.run, new)

    def after(self, code: int) -> int:
        """Write down the end of this start and queue the job again if that helps; returns the exit code."""
        # What ends the job may signal this process, too; it has to say its word first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        mine = [
            start
            for start in ledger.read_starts(self.run)
            if (start.job, start.restart) == (self.job, self.restart)
        ]
        fields = slurm.job_fields(self.job)
        state = fields.get("JobState", "RUNNING")
        if state == "COMPLETING" and fields.get("Reason") == "TimeLimit":
            state = "TIMEOUT"  # SLURM does not queue it again by itself
        if state not in ("RUNNING", "TIMEOUT", "CANCELLED") or not mine:
            # SLURM has taken the job back already (preemption, requeue, a lost node) and will say why.
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
        """The reason of an end, from what the ranks recorded and what SLURM says."""
        saved = ledger.newest_checkpoint(self.run)
        attempts = [
            a for a in records.read_attempts(self.run) if a.job == self.job and a.started >= start.time - 1
        ]
        attempt = attempts[-1] if attempts else None
        errors = [e for e in records.read_errors(self.run, attempt.number) if e.culprit] if attempt else []
        reason, detail, failed = ledger.ERROR, _last_error(fields) or f"srun ended with {code}", set[str]()
        if code == 0:
            reason, detail = ledger.FINISHED, ""
        elif state == "CANCELLED":
            reason, detail = ledger.CANCELLED, ""
        elif state == "TIMEOUT" or (attempt and attempt.reason == records.WALL_CLOCK):
            reason, detail = ledger.TIME_LIMIT, ""
        elif code == REQUEUE:
            reason, detail = _asked(attempt, fields), ""
        elif errors:
            first = errors[0]
            reason, detail = first.kind, f"rank {first.rank} on {first.host}: {first.what}"
            failed = {error.host for error in errors}
        elif attempt and attempt.reason:
            reason, detail = attempt.reason, attempt.detail or detail
        mistake = code == USER_ERROR or bool(attempt and attempt.exit_code == USER_ERROR)
        return replace(
            start,
            reason=reason,
            detail=detail or None,
            saved_after=saved,
            # Failures on several nodes at once are the program's, not the nodes'.
            failed_nodes=tuple(failed) if len(failed) == 1 and not mistake else (),
        )

    def _no_restart(self, start: Start, starts: list[Start], state: str) -> str | None:
        """Why the job is not queued again; None: it is."""
        if start.reason == ledger.FINISHED:
            return "finished"
        if state == "CANCELLED":
            return "somebody cancelled the job: it stays so"
        attempts = [
            a for a in records.read_attempts(self.run) if a.job == self.job and a.started >= start.time - 1
        ]
        if start.code == USER_ERROR or (attempts and attempts[-1].exit_code == USER_ERROR):
            return "a mistake that a restart does not mend"
        owner = owner_of(self.run)
        if owner and owner.job not in (None, self.job) and owner.job in slurm.active():
            return f"another job trains in this run directory: {owner}"
        if (count := ledger.fruitless(starts, self.job)) > self.most:
            return f"giving up: {count} starts in a row brought no new checkpoint"
        return None

    def _can_do_without(self, bad: set[str]) -> set[str]:
        """The nodes to exclude, with those that are already; none if too few would be left."""
        fields = slurm.job_fields(self.job)
        excluded = set(slurm.hosts(fields.get("ExcNodeList", "").replace("(null)", "")))
        away = bad | excluded
        left = slurm.partition_nodes(fields.get("Partition", "")) - away
        needed = int(fields.get("NumNodes", "1").partition("-")[0])
        if len(left) < needed:
            say(
                f"{', '.join(sorted(bad))} failed twice, but without them {len(left)} of {needed} nodes are left"
            )
            return set()
        return away

    def _requeue(self, away: set[str]) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        slurm.requeue(self.job, away)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_GOING)  # SLURM ends this script
        return REQUEUE


def _last_error(fields: dict[str, str]) -> str | None:
    """The last message of an error in the job's log: of a start that ended before there was an attempt."""
    try:
        lines = Path(fields["StdOut"]).read_text(encoding="utf-8", errors="replace").splitlines()
    except (KeyError, OSError):
        return None
    said = [line for line in lines if line.startswith("error: ")]
    return said[-1].removeprefix("error: ") if said else None


def _asked(attempt: records.Attempt | None, fields: dict[str, str]) -> str:
    """Why a training that saved and left did so: it only knows a signal's name."""
    if fields.get("PreemptTime", "None").isdigit():
        return ledger.PREEMPTED
    end = fields.get("EndTime", "")
    if (
        end.isdigit()
        and float(end) - time.time() < _SOON
        and (attempt is None or attempt.reason != "signal SIGTERM")
    ):
        return ledger.TIME_LIMIT
    return attempt.reason if attempt and attempt.reason else "signal"


def _is_finished(run: Path, steps: int) -> bool:
    try:
        state = read_json(run / "state.json")
    except OctoError:
        return False
    return bool(state.get("status") == "finished" and state.get("step", 0) >= steps)


def _free_port(job: int) -> int:
    """A port of the job's own, below the range from which the kernel gives ports to clients."""
    for port in range(10_000 + job % 20_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OctoError("no free port from 10000 to 32000 on this node", where=socket.gethostname())


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
