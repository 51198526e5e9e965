"""``commits run RECIPE``: the stages of a recipe, one after the other; a start that was killed goes on.

A stage that is finished is not made again. With --slurm the stages become jobs, arrays where their parts are
independent.
"""

import argparse
import re
import shlex
from pathlib import Path

from megatron_octo.commits.chain.recipe import Recipe, read_recipe
from megatron_octo.commits.chain.run import find_step, remove_from, run_recipe, run_step
from megatron_octo.commits.commands import call, parser_of
from megatron_octo.common.errors import OctoError


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("run", help="the stages of a recipe", description=__doc__)
    add = parser.add_argument
    add("recipe", metavar="RECIPE", help="YAML: output, stages, inputs and jobs; see recipes/commits.yaml")
    add("--again-from", metavar="STAGE", help="remove the outputs of this stage and those behind it first")
    add("--only", metavar="STAGE", help="this stage alone, by number or name")
    add("--share", metavar="K/N", help="with --only: every N-th part from the K-th on; a start without it joins them")
    add("--dry-run", action="store_true", help="show the commands")
    add("--slurm", action="store_true", help="submit the stages as jobs")
    add("--array", type=int, default=8, metavar="N", help="with --slurm: tasks of an array (default: %(default)s)")
    add("--cpus", type=int, default=4, metavar="N", help="with --slurm: of a task (default: %(default)s)")
    text = "with --slurm: a further option of sbatch, as --sbatch=--partition=cpu (repeatable)"
    add("--sbatch", action="append", default=[], metavar="OPTION", help=text)


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    recipe = read_recipe(arguments.recipe, parser_of)
    share = _share(arguments.share)
    if share is not None and arguments.only is None:
        raise OctoError("--share needs --only", where="command line")
    if arguments.dry_run:
        for step in recipe.steps:
            print("python -m megatron_octo.commits", shlex.join(step.command))
        return 0
    if arguments.again_from is not None:
        remove_from(recipe, arguments.again_from)
    if arguments.slurm:
        return _submit(recipe, arguments)
    if arguments.only is not None:
        run_step(recipe, find_step(recipe, arguments.only), call, share)
    else:
        run_recipe(recipe, call)
        print(f"{recipe.steps[-1].output}: complete")
    return 0


def _submit(recipe: Recipe, arguments: argparse.Namespace) -> int:
    from megatron_octo.commits.chain.slurm import submit_recipe

    if arguments.array < 1 or arguments.cpus < 1:
        raise OctoError("--array and --cpus: at least 1", where="command line")
    for option in arguments.sbatch:
        if not re.fullmatch(r"--[a-z][a-z-]*(=\S+)?", option):
            raise OctoError(
                f"not an option of sbatch: {option!r}", where="--sbatch", hint="write --sbatch=--name=value"
            )
    recipe.output.mkdir(parents=True, exist_ok=True)
    jobs = submit_recipe(recipe, array=arguments.array, cpus=arguments.cpus, options=arguments.sbatch)
    for name, job in jobs:
        print(f"job {job}: {name}")
    print(f"scripts and logs: {Path(recipe.output) / 'slurm'}")
    return 0


def _share(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise OctoError(f"--share {text}: not K/N with K below N", where="command line")
    return int(found[1]), int(found[2])
