"""``python -m megatron_octo.submit RECIPE [a.b=c ...]``: a run under SLURM, from its data to its proof.

Also ``submit status | logs | cancel | resume RUN`` and ``submit list [FOLDER]``.
"""

import argparse
import contextlib
import importlib
import io
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_octo.common.errors import USER_ERROR, OctoError, run_command

if TYPE_CHECKING:
    from megatron_octo.cluster.profile import Profile
    from megatron_octo.cluster.script import Job
    from megatron_octo.cluster.stages import Order
    from megatron_octo.sizing.estimate import Plan
    from megatron_octo.training.readiness.checklist import Readiness

WATCHING = ("status", "logs", "cancel", "resume", "list")
EPILOG = """after submission:
  submit status RUN      state, progress, every start with the reason of its end   (--json)
  submit logs RUN        the newest log   (--stage train, --follow)
  submit cancel RUN      end all its jobs; the training saves before it goes
  submit resume RUN      submit again what is not done
  submit list [FOLDER]   the runs of a folder (default: runs)

docs/slurm.md describes them."""

_EXAMPLES = {
    "preprocess": "--preprocess '--input data/commits.jsonl.gz --format commits'",
    "evaluate": "--evaluate '--prompt octocoder --tasks humanevalfixtests-python'",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the options of a submission."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.submit",
        description="Run the stages of a recipe under SLURM, each after the one before it succeeded; the training is "
        "queued again until it is finished.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", help="recipe file (YAML); docs/recipes.md describes the keys")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    add("--stages", default="train", help="of preprocess,train,convert,verify,evaluate (default: %(default)s)")
    add("--cluster", metavar="NAME|FILE|local", help="clusters/NAME.yaml, a profile, or this machine")
    add("--dry-run", action="store_true", help="print recipe, plan and the sbatch scripts, and do nothing")
    add(
        "--force",
        action="store_true",
        help="submit it although the plan or the check says that it cannot run",
    )
    add("--change-recipe", action="store_true", help="go on in a run directory that another recipe made")
    asked = parser.add_argument_group("for the training; of the other stages, what the profile does not say")
    asked.add_argument("--nodes", type=_positive, metavar="N")
    asked.add_argument("--gpus-per-node", type=_positive, metavar="N", help="and ranks")
    asked.add_argument("--gpu", metavar="X", help="h100, h200, a100, ...: what cannot fit is refused")
    asked.add_argument("--time", metavar="HH:MM:SS", help="limit of one start; the training goes on in the next")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        asked.add_argument(f"--{name}", metavar="X", help="as sbatch takes it")
    more = parser.add_argument_group("stages")
    more.add_argument(
        "--array",
        metavar="0-K",
        help="preprocess in K+1 tasks (0-7%%4: four at a time), and merge what they made",
    )
    more.add_argument("--preprocess", metavar="ARGS", help="'--input data/x.jsonl --format commits ...'")
    more.add_argument("--convert", metavar="ARGS", help="further arguments of convert to-hf")
    more.add_argument("--verify", metavar="ARGS", help="further arguments of convert verify")
    more.add_argument("--evaluate", metavar="ARGS", help="'--prompt octocoder --data DIR ...' of evaluate run")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Submit a run, or run one of the commands after the submission; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in WATCHING:
        from megatron_octo.cluster.run_commands import watch

        return watch(words)
    return _submit(build_parser().parse_intermixed_args(words))


def _submit(arguments: argparse.Namespace) -> int:
    from megatron_octo.cluster import queue, sbatch, slurm, snapshot
    from megatron_octo.cluster.script import jobs_of

    order = _order(arguments)
    jobs = jobs_of(order)
    if not arguments.change_recipe:
        snapshot.check_same_recipe(order.run, order.recipe)
    plan, found = _plan(order), _check(order)
    if arguments.dry_run:
        _show(order, jobs, plan)
        print("\n".join(["# check", *found.lines()]))
        return USER_ERROR if found.problems else 0
    if plan and not plan.fits and not arguments.force:
        raise OctoError(
            "this run does not fit:\n    " + "\n    ".join(plan.lines()),
            where=arguments.recipe,
            hint="change the recipe as proposed, or submit it all the same with --force",
        )
    if slurm.installed():  # a run on this machine would change the code of the jobs that wait, too
        queue.check_idle(order.run)
    if not arguments.force:
        found.stop()
    if arguments.cluster == "local":
        from megatron_octo.cluster.local import run_here

        snapshot.prepare(order, [])
        return run_here(order)
    is_new = not order.run.exists()
    snapshot.prepare(order, jobs)
    try:
        done = sbatch.submit_chain(jobs, order.run / "submit", partial(snapshot.write_job, order.run))
    except OctoError:
        if is_new:  # what was refused leaves nothing
            # A job that was cancelled may still write its log.
            shutil.rmtree(order.run, ignore_errors=True)
        raise
    for stage, job in done:
        print(f"{stage}: job {job}")
    print(f"python -m megatron_octo.submit status {order.recipe.run_dir}")
    return 0


def _order(arguments: argparse.Namespace) -> "Order":
    from megatron_octo.cluster.stages import STAGES, Order, check_order, read_stages
    from megatron_octo.recipe.loading import load_recipe

    given = {name: getattr(arguments, name, None) for name in STAGES}
    order = Order(
        recipe=load_recipe(arguments.recipe, arguments.overrides),
        profile=_profile(arguments),
        stages=read_stages(arguments.stages),
        folder=Path.cwd(),
        python=sys.executable,
        array=arguments.array,
        arguments={name: _split(name, text) for name, text in given.items() if text},
    )
    check_order(order)
    for stage in order.stages:
        for command in STAGES[stage].commands(order):
            _check_arguments(stage, command.module, command.words)
    return order


def _split(stage: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OctoError(
            f"cannot read the arguments {text!r}: {error}",
            where=f"--{stage}",
            hint="quotes are closed, and a backslash is followed by something, as in a shell",
        ) from None


def _profile(arguments: argparse.Namespace) -> "Profile":
    """Return the cluster's profile with the changes of the command line."""
    from megatron_octo.cluster.profile import check_profile, find_profile

    local = arguments.cluster == "local"
    profile = find_profile(None if local else arguments.cluster)
    names = ("nodes", "gpus_per_node", "gpu", "time", "partition", "account", "qos", "constraint", "exclude")
    said: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return check_profile({**profile.model_dump(), **({"gpus_per_node": 1} if local else {}), **said})


def _check_arguments(stage: str, module: str, words: list[str]) -> None:
    """Parse the arguments of a stage now, with its own parser, and not in a job hours later."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            importlib.import_module(module).build_parser().parse_args(words)
    except SystemExit:
        what = (said.getvalue().strip().splitlines() or ["cannot read its arguments"])[-1]
        raise OctoError(
            f"{stage}: {what.rpartition('error: ')[2]}",
            where=f"--{stage}",
            hint=f"for example {_EXAMPLES.get(stage, _EXAMPLES['preprocess'])}",
        ) from None


def _plan(order: "Order") -> "Plan | None":
    """Return the plan of the training; None if its GPUs are not named, or it needs none."""
    profile = order.profile
    if "train" not in order.stages or profile.gpu is None or order.recipe.system.device == "cpu":
        return None
    from megatron_octo.sizing.estimate import estimate

    return estimate(order.recipe, profile.gpu, profile.nodes, profile.gpus_per_node)


def _check(order: "Order") -> "Readiness":
    """Look for what would stop the training; its data, unless a stage of this run makes them."""
    from megatron_octo.training.readiness.checklist import Readiness, check_recipe

    if "train" not in order.stages:
        return Readiness()
    return check_recipe(order.recipe, order.world, data="preprocess" not in order.stages)


def _show(order: "Order", jobs: "list[Job]", plan: "Plan | None") -> None:
    from megatron_octo.recipe.loading import dump_recipe

    print(f"# resolved recipe\n{dump_recipe(order.recipe)}")
    print("# plan")
    for line in (
        plan.lines()
        if plan
        else ["none: it needs a training on GPUs, and their name from --gpu or from gpu: in the profile"]
    ):
        print(line)
    print()
    for job in jobs:
        print(f"# {job.script}\n{job.text}")


if __name__ == "__main__":
    run_command(main)
