"""Stages of a recipe as jobs of SLURM: arrays where their parts are independent, each stage behind the one before."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from megatron_octo.commits.chain.recipe import SHARED, Recipe, Step
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write


def script(recipe: Recipe, step: Step, cpus: int, array: int, options: list[str]) -> str:
    """Return the sbatch script of a stage, or of its shares if ``array`` is above 0."""
    folder = (recipe.output / "slurm").absolute()
    name = f"commits-{step.output.name}"
    lines = ["#!/bin/bash", f"#SBATCH --job-name={name}", "#SBATCH --ntasks=1", f"#SBATCH --cpus-per-task={cpus}"]
    suffix = "%A_%a" if array else "%j"
    lines += [f"#SBATCH --output={folder}/{step.output.name}-{suffix}.log"]
    lines += [f"#SBATCH --array=0-{array - 1}"] if array else []
    lines += [f"#SBATCH {option}" for option in options]
    share = f' --share "$SLURM_ARRAY_TASK_ID/{array}"' if array else ""
    call = shlex.join([sys.executable, "-m", "megatron_octo.commits", "run", str(recipe.path.absolute())])
    lines += ["set -euo pipefail", f"cd {shlex.quote(str(Path.cwd()))}"]
    lines += [f"exec {call} --only {shlex.quote(step.output.name)}{share}"]
    return "\n".join(lines) + "\n"


def submit_recipe(recipe: Recipe, *, array: int, cpus: int, options: list[str]) -> list[tuple[str, str]]:
    """Submit all stages; returns pairs of stage and job.

    A stage with independent parts becomes an array that makes them, and a job that joins them.

    Args:
        recipe: the chain.
        array: tasks of an array.
        cpus: of a task.
        options: further words for ``#SBATCH`` lines, as ``--partition=cpu``.

    Raises:
        OctoError: SLURM is missing or refuses a job. Jobs that were submitted before are cancelled.
    """
    if shutil.which("sbatch") is None:
        raise OctoError("no sbatch on this machine", where="PATH", hint="leave --slurm out, or start where SLURM is")
    folder = recipe.output / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    jobs: list[tuple[str, str]] = []
    try:
        for step in recipe.steps:
            for size in [array, 0] if step.name in SHARED and array > 1 else [0]:
                path = folder / f"{step.output.name}{'-shares' if size else ''}.sh"
                with atomic_write(path, "w") as file:
                    file.write(script(recipe, step, cpus, size, options))
                jobs.append((path.stem, _sbatch(path, jobs[-1][1] if jobs else None)))
    except OctoError:
        subprocess.run(["scancel", *(job for _, job in jobs)], check=False, capture_output=True)
        raise
    return jobs


def _sbatch(path: Path, after: str | None) -> str:
    words = ["sbatch", "--parsable"]
    words += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"] if after else []
    done = subprocess.run([*words, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OctoError(f"sbatch refused the job: {done.stderr.strip()}", where=path, hint="see --sbatch and --cpus")
    return done.stdout.strip().partition(";")[0]
