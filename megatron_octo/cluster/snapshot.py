"""Files that a submission leaves in the run directory, so that it can be understood and repeated: ``RUN/submit``.

RUN/submit.sh            the training's sbatch script; RUN/submit/STAGE.sh those of the other stages
RUN/submit/recipe.yaml   the resolved recipe
           order.json    stages, nodes and the cluster's profile
           code/         the library as it was; commit.txt and diff.patch say which
           environment.json
           jobs.jsonl    one line per submitted job
           logs/
"""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pydantic import TypeAdapter

import megatron_octo
from megatron_octo.cluster.script import LOGS, Job
from megatron_octo.cluster.stages import Order
from megatron_octo.common import jsonl
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, write_json
from megatron_octo.common.quoting import masked_value, masked_words
from megatron_octo.common.records import JobId, Report, Words, ignore, read_record
from megatron_octo.recipe.loading import dump_recipe, flat, load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.attempts import RECIPE

JOBS = "submit/jobs.jsonl"
# Names of settings; what looks like a secret among their values is masked.
_VARIABLES = (
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LOADEDMODULES",
    "PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
)
_PREFIXES = ("NCCL_", "NVTE_", "OMP_", "TORCH_")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return ``key: old -> new`` for every key that differs."""
    theirs, ours = flat(old.model_dump()), flat(new.model_dump())
    keys = [*theirs, *(key for key in ours if key not in theirs)]
    return [f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}" for key in keys if theirs.get(key) != ours.get(key)]


def check_same_recipe(run: Path, recipe: Recipe) -> None:
    """Refuse to put another recipe into a run directory.

    Raises:
        OctoError: the run was made with another one; names the keys.
    """
    for path in (run / "submit" / RECIPE, run / RECIPE):
        if not path.is_file():
            continue
        changed = differences(load_recipe(path), recipe)
        if changed:
            raise OctoError(
                "this run directory belongs to another recipe:\n    " + "\n    ".join(changed),
                where=path,
                hint="choose another run_dir, or say --change-recipe to go on with the new one",
            )
        return


class OrderRecord(TypedDict):
    """The part of ``order.json`` that a submission is repeated from. Former versions recorded no ``folder``."""

    stages: list[Words]
    array: NotRequired[str | None]
    folder: NotRequired[str]


def prepare(order: Order, jobs: list[Job]) -> None:
    """Write scripts, recipe, code and environment into the run directory, which is the owner's alone (0700).

    Raises:
        OctoError: the directory cannot be written.
    """
    if not order.run.exists():
        order.run.mkdir(parents=True)
        order.run.chmod(0o700)
    folder = order.run / "submit"
    (order.run / LOGS).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with atomic_write(folder / RECIPE, "w") as file:
        file.write(dump_recipe(order.recipe))
    write_json(folder / "order.json", order_record(order))
    write_json(folder / "environment.json", environment())
    _copy_code(folder)
    for job in jobs:
        with atomic_write(job.script, "w") as file:
            file.write(job.text)
        job.script.chmod(0o700)


def order_record(order: Order) -> dict[str, Any]:
    """Return the content of ``order.json``."""
    return {
        "submitted": time.time(),
        "stages": list(order.stages),
        "nodes": order.profile.nodes,
        "gpus_per_node": order.profile.gpus_per_node,
        "array": order.array,
        "arguments": order.arguments,
        "folder": str(order.folder),
        "profile": order.profile.model_dump(),
    }


def environment() -> dict[str, Any]:
    """Return interpreter, versions of all packages, and the variables that change results or places."""
    packages = {dist.name: dist.version for dist in importlib.metadata.distributions()}
    variables = {
        name: masked_value(name, value)
        for name, value in os.environ.items()
        if name in _VARIABLES or name.startswith(_PREFIXES)
    }
    return {
        "python": sys.executable,
        "version": platform.python_version(),
        "host": socket.gethostname(),
        "command": masked_words(sys.argv),
        "packages": dict(sorted(packages.items())),
        "variables": dict(sorted(variables.items())),
    }


def _copy_code(folder: Path) -> None:
    """Copy the package as it is now, so that a job that waits for days is not changed by edits."""
    source = Path(megatron_octo.__file__).parent
    target = folder / "code" / "megatron_octo"
    if source.resolve() != target.resolve():
        # Aside and renamed: a rank that starts at this moment finds one or the other, and both are whole.
        aside, old = (target.with_name(f".{name}.{os.getpid()}") for name in ("new", "old"))
        shutil.copytree(source, aside, ignore=shutil.ignore_patterns("__pycache__"))
        if target.exists():
            target.rename(old)
        aside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    root = source.parent
    (folder / "commit.txt").write_bytes(_git(root, "rev-parse", "HEAD") or b"not from a git checkout\n")
    (folder / "diff.patch").write_bytes(_git(root, "diff", "--binary", "HEAD"))


def _git(root: Path, *words: str) -> bytes:
    """Bytes: a file in another encoding than UTF-8 may be among those that changed."""
    try:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return b""


def write_job(run: Path, stage: str, job: str, after: str | None) -> None:
    """Record a submitted job."""
    jsonl.append(run / JOBS, {"stage": stage, "job": job, "after": after, "submitted": time.time()})


class Submitted(TypedDict):
    """A submitted job, from ``jobs.jsonl``."""

    stage: Words
    job: JobId


_SUBMITTED, _ORDER = TypeAdapter(Submitted), TypeAdapter(OrderRecord)


def read_jobs(run: Path, report: Report = ignore) -> list[Submitted]:
    """Read the submitted jobs in order."""
    return jsonl.read(run / JOBS, _SUBMITTED, report)


def read_order(run: Path) -> OrderRecord:
    """Read ``order.json``.

    Raises:
        OctoError: nothing was submitted, or the record is not valid.
    """
    path = run / "submit" / "order.json"
    if not path.is_file():
        raise OctoError(
            "this run was not submitted from here",
            where=run,
            hint="python -m megatron_octo.submit RECIPE starts one",
        )
    return read_record(path, _ORDER)


def run_recipe(run: Path) -> Recipe:
    """Read the recipe of a run, submitted or not.

    Raises:
        OctoError: the directory is no run.
    """
    for path in (run / RECIPE, run / "submit" / RECIPE):
        if path.is_file():
            try:
                return load_recipe(path)
            except RecursionError:
                raise OctoError("not a recipe: nested too deeply", where=path) from None
    raise OctoError("no run here", where=run, hint="expected a run directory, with recipe.yaml")
