"""``submit status | logs | cancel | resume | list``: after the submission."""

import argparse
import collections
import json
import time
from functools import partial
from pathlib import Path

from megatron_octo.cluster import queue, sbatch, slurm, snapshot
from megatron_octo.cluster.script import Job, script_name
from megatron_octo.cluster.stages import STAGES, links
from megatron_octo.cluster.status import Status, find_runs, newest_log, problem_lines, render, status_of
from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable

_OVER = ("COMPLETED",)
_POLL = 0.5  # seconds between looks at a log


def build_parser() -> argparse.ArgumentParser:
    """Return the commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m megatron_octo.submit")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="state, progress, every start with the reason of its end")
    status.add_argument("run", type=Path)
    status.add_argument("--json", action="store_true", help="as JSON")
    logs = commands.add_parser("logs", help="the newest log of a run")
    logs.add_argument("run", type=Path)
    logs.add_argument("--stage", help="of this stage")
    logs.add_argument("--lines", type=int, default=50, metavar="N", help="the last ones (default: %(default)s)")
    logs.add_argument("--follow", "-f", action="store_true", help="and what comes after them")
    cancel = commands.add_parser("cancel", help="end all jobs of a run")
    cancel.add_argument("run", type=Path)
    resume = commands.add_parser("resume", help="submit again what is not done")
    resume.add_argument("run", type=Path)
    listed = commands.add_parser("list", help="the runs of a folder")
    listed.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    return parser


def watch(words: list[str]) -> int:
    """Run one of the commands; returns the exit code."""
    arguments = build_parser().parse_args(words)
    if arguments.command == "list":
        return _list(arguments.folder)
    return {"status": _status, "logs": _logs, "cancel": _cancel, "resume": _resume}[arguments.command](arguments)


def _status(arguments: argparse.Namespace) -> int:
    status = status_of(arguments.run)
    print(json.dumps(status.to_json(), indent=1) if arguments.json else render(status))
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    path, about = newest_log(arguments.run, arguments.stage)
    print(f"==> {printable(path)}: {about} <==", flush=True)
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in collections.deque(file, maxlen=max(0, arguments.lines)):
            print(printable(line.rstrip("\r\n"), keep="\t"))
        while arguments.follow:
            for line in file:
                print(printable(line, keep="\t\n"), end="", flush=True)
            time.sleep(_POLL)
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    jobs = queue.jobs_not_over(arguments.run)
    if not jobs:
        snapshot.run_recipe(arguments.run)
        print("no job of this run is waiting or running")
        return 0
    # The last of the chain first: none of them may start because another one ended.
    for stage, job in reversed(jobs):
        slurm.ask("scancel", job)
        print(f"{stage}: job {job} cancelled")
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    run: Path = arguments.run.absolute()
    order = snapshot.read_order(run)
    folder = Path(order.get("folder") or run)
    if not folder.is_dir():
        raise OctoError(
            "the folder that this run was submitted from is not there, and its relative paths start from it",
            where=folder,
            hint="python -m megatron_octo.submit RECIPE run_dir=RUN --change-recipe, from the new folder",
        )
    queue.check_idle(run)
    status = status_of(run)
    newest = {stage.stage: stage.state for stage in status.stages}
    names = [link for name in order["stages"] if name in STAGES for link in links(name, order.get("array"))]
    left = [name for name in names if not _is_done(name, newest, status)]
    if not left:
        print(f"{printable(arguments.run)} is done: {', '.join(names)}")
        return 0
    jobs = [_job(run, name) for name in left]
    done = sbatch.submit_chain(jobs, run / "submit", partial(snapshot.write_job, run))
    for stage, job in done:
        print(f"{stage}: job {job}")
    return 0


def _job(run: Path, stage: str) -> Job:
    """Return a job of a submission; a run that was moved since has to have scripts that can be moved."""
    path = run / script_name(stage)
    try:
        job = Job(stage, path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise OctoError(f"the script of {stage} cannot be read: {error}", where=path) from None
    if "\nhere=$(" not in job.text and f"{run.resolve()}/" not in job.text:
        raise OctoError(
            "this run was moved or copied, and its script names the former place",
            where=path,
            hint="python -m megatron_octo.submit RECIPE run_dir=RUN --change-recipe writes new scripts",
        )
    return job


def _is_done(stage: str, newest: dict[str, str], status: Status) -> bool:
    return status.state == "finished" if stage == "train" else newest.get(stage) in _OVER


def _list(folder: Path) -> int:
    if not folder.is_dir():
        raise OctoError("no such folder", where=folder, hint="python -m megatron_octo.submit list FOLDER")
    runs = find_runs(folder)
    asked = queue.look(runs)
    if asked.silent:
        print(f"SLURM does not answer ({asked.silent}): this is from the runs' own records")
    for run in runs:
        name = f"{printable(run):<40}"
        try:
            status = status_of(run, asked)
        except (OctoError, OSError) as error:
            print(f"{name} cannot be read: {printable(error.what if isinstance(error, OctoError) else error)}")
            continue
        jobs = ", ".join(f"{stage.stage} {stage.state}" for stage in status.stages)
        print(f"{name} {status.state:<10} step {status.step:,} of {status.steps:,}  {jobs}".rstrip())
        print(
            *(f"  {line}" for line in problem_lines(status.problems)),
            sep="\n",
            end="\n" * bool(status.problems),
        )
    if not runs:
        print(f"no run in {printable(folder)}")
    return 0
