"""``submit status | logs | cancel | resume | list``: after the submission."""

import argparse
import json
import os
from functools import partial
from pathlib import Path

from megatron_octo.cluster import queue, sbatch, slurm, snapshot
from megatron_octo.cluster.script import Job, script_name
from megatron_octo.cluster.status import Status, find_runs, newest_log, render, status_of
from megatron_octo.common.errors import OctoError

_OVER = ("COMPLETED",)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m megatron_octo.submit")
    commands = parser.add_subparsers(dest="command", required=True)
    status = commands.add_parser("status", help="state, progress, every start with the reason of its end")
    status.add_argument("run", type=Path)
    status.add_argument("--json", action="store_true", help="as JSON")
    logs = commands.add_parser("logs", help="the newest log of a run")
    logs.add_argument("run", type=Path)
    logs.add_argument("--stage", help="of this stage")
    logs.add_argument(
        "--lines", type=int, default=50, metavar="N", help="the last ones (default: %(default)s)"
    )
    logs.add_argument("--follow", "-f", action="store_true", help="and what comes after them")
    cancel = commands.add_parser("cancel", help="end all jobs of a run")
    cancel.add_argument("run", type=Path)
    resume = commands.add_parser("resume", help="submit again what is not done")
    resume.add_argument("run", type=Path)
    listed = commands.add_parser("list", help="the runs of a folder")
    listed.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    return parser


def watch(words: list[str]) -> int:
    arguments = build_parser().parse_args(words)
    if arguments.command == "list":
        return _list(arguments.folder)
    return {"status": _status, "logs": _logs, "cancel": _cancel, "resume": _resume}[arguments.command](
        arguments
    )


def _status(arguments: argparse.Namespace) -> int:
    status = status_of(arguments.run)
    print(json.dumps(status.to_json(), indent=1) if arguments.json else render(status))
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    path = newest_log(arguments.run, arguments.stage)
    print(f"==> {path} <==", flush=True)
    words = ["tail", f"--lines={arguments.lines}", *(["--follow"] if arguments.follow else []), str(path)]
    os.execvp("tail", words)


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
    queue.check_idle(run)
    status = status_of(run)
    newest = {stage.stage: stage.state for stage in status.stages}
    links = [link for name in order["stages"] for link in _links(name, order)]
    left = [name for name in links if not _is_done(name, newest, status)]
    if not left:
        print(f"{arguments.run} is done: {', '.join(links)}")
        return 0
    jobs = [Job(name, path := run / script_name(name), path.read_text(encoding="utf-8")) for name in left]
    done = sbatch.submit_chain(jobs, run / "submit", partial(snapshot.write_job, run))
    for stage, job in done:
        print(f"{stage}: job {job}")
    return 0


def _links(stage: str, order: dict[str, object]) -> tuple[str, ...]:
    return ("preprocess", "merge") if stage == "preprocess" and order["array"] is not None else (stage,)


def _is_done(stage: str, newest: dict[str, str], status: Status) -> bool:
    return status.state == "finished" if stage == "train" else newest.get(stage) in _OVER


def _list(folder: Path) -> int:
    if not folder.is_dir():
        raise OctoError("no such folder", where=folder, hint="python -m megatron_octo.submit list FOLDER")
    runs = find_runs(folder)
    asked = queue.look(runs)
    if asked.silent:
        print(f"SLURM does not answer ({asked.silent}): these are the runs' own records")
    for run in runs:
        try:
            status = status_of(run, asked)
        except OctoError as error:
            print(f"{run!s:<40} cannot be read: {error.what}")
            continue
        jobs = ", ".join(f"{stage.stage} {stage.state}" for stage in status.stages)
        print(f"{run!s:<40} {status.state:<10} step {status.step:,} of {status.steps:,}  {jobs}".rstrip())
    if not runs:
        print(f"no run in {folder}")
    return 0
