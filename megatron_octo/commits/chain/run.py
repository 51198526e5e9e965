"""Stages one after the other; what is finished is not made again."""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.commits.chain.recipe import SHARED, Recipe, Step
from megatron_octo.commits.rows.reading import manifest_of
from megatron_octo.commits.rows.stage import SHARE
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json, read_json, remove_any, write_json

Call = Callable[[Sequence[str]], int]
FRACTION = "/"


def state_of(step: Step) -> str | None:
    """Return what the output of a finished step was made of; None if it is not finished.

    Raises:
        OctoError: the record is damaged.
    """
    if not step.output.exists() or not step.record.is_file():
        return None
    found: Any = read_json(step.record)
    return str(found.get("made_of")) if isinstance(found, dict) else None


def made_of(step: Step) -> str:
    """Return a digest of all that a step's output follows from: its options, and the manifests of its inputs."""
    inputs = []
    for name in step.inputs:
        manifest = manifest_of(Path(name))
        inputs.append([name, digest_file(manifest) if manifest.is_file() else _stat(Path(name))])
    return digest_json([step.name, list(step.words), inputs])


def _stat(path: Path) -> list[int]:
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def run_recipe(recipe: Recipe, call: Call, *, again_from: str | None = None) -> None:
    """Run the stages that are not finished.

    Args:
        recipe: the chain.
        call: runs a command of ``megatron_octo.commits``.
        again_from: a stage; its output and those behind it are removed first.

    Raises:
        OctoError: a stage fails, or a finished output was made of something else.
    """
    recipe.output.mkdir(parents=True, exist_ok=True)
    if again_from is not None:
        remove_from(recipe, again_from)
    for step in recipe.steps:
        run_step(recipe, step, call)


def remove_from(recipe: Recipe, name: str) -> None:
    """Remove the outputs of a stage and of all behind it.

    Raises:
        OctoError: the recipe has no such stage.
    """
    first = find_step(recipe, name)
    for step in recipe.steps[first.number - 1 :]:
        step.record.unlink(missing_ok=True)
        for path in step.output.parent.glob(f"{step.output.name}*"):
            if path.name == step.output.name or path.name.startswith(f"{step.output.name}."):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else remove_any(path)


def find_step(recipe: Recipe, name: str) -> Step:
    """Return the stage with a number or a name.

    Raises:
        OctoError: there is none, or several have the name.
    """
    found = [step for step in recipe.steps if name in (step.name, str(step.number), step.output.name)]
    if len(found) != 1:
        known = ", ".join(step.output.name for step in recipe.steps)
        raise OctoError(f"{len(found)} stages {name!r}", where=recipe.path, hint=f"one of {known}")
    return found[0]


def run_step(recipe: Recipe, step: Step, call: Call, share: tuple[int, int] | None = None) -> None:
    """Run one stage, or a share of its parts, if it is not finished.

    Raises:
        OctoError: it fails, or its output was made of something else.
    """
    wanted = made_of(step)
    state = state_of(step)
    if state == wanted:
        print(f"{step.output}: complete already", file=sys.stderr)
        return
    if state is not None:
        hint = f"python -m megatron_octo.commits run {recipe.path} --again-from {step.output.name}"
        what = "this output was made of other inputs or options, an earlier stage has changed"
        raise OctoError(what, where=step.output, hint=hint)
    words = step.command
    if recipe.jobs is not None and step.name != "query":
        words = [words[0], "--jobs", str(recipe.jobs), *words[1:]]
    token = SHARE.set(share if share is not None and step.name in SHARED else None)
    try:
        if share is not None and step.name not in SHARED:
            raise OctoError(f"{step.name} is not made in shares", where=step.output)
        code = call(words)
    finally:
        SHARE.reset(token)
    if code:
        raise OctoError(f"{step.name} ended with {code}", where=step.output, hint="see its messages above")
    if share is None:
        write_json(step.record, {"made_of": wanted, "command": words})
