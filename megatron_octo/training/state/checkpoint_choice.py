"""Chooses the checkpoint that a run starts from. Files are digested while they are loaded, and read once."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.adapter_base import find_base
from megatron_octo.checkpoint.directory import Manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.source import Source
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.formats import format_of
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.attempts import read_attempts, read_state
from megatron_octo.runfiles.samples import find_gaps, read_samples
from megatron_octo.runfiles.steps import last_recorded_step
from megatron_octo.training.readiness.first_weights import needs_checkpoint, refuse_adapters


def missing_records(run: Path, step: int) -> list[str]:
    """Return lines about records and checkpoints that a run which goes on after a step should have."""
    last = last_recorded_step(run)
    if step == 0 and last is not None:
        saved = max([read_state(run).saved or 0, *(each.saved_step or 0 for each in read_attempts(run))])
        lost = f"WARNING: step {saved} was saved, but all checkpoints are gone" if saved else "nothing was saved yet"
        return [f"{lost}: a run that recorded steps up to {last} begins again at step 1"]
    try:
        gaps = find_gaps(read_samples(run), step) if step else []
    except (OctoError, OSError) as error:
        gaps = [error.what if isinstance(error, OctoError) else str(error)]
    if not gaps:
        return []
    more = f"; and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    text = "WARNING: samples.bin is not complete, so that not every step can be traced to its rows: "
    return [f"{text}{'; '.join(gaps[:3])}{more}"]


def finished_step(folder: Path, steps: int, grid: Grid) -> int | None:
    """Return the step of the run's newest checkpoint if training to ``steps`` is done and it is whole. Collective."""
    newest: list[Any] = [grid.is_main and next(iter(layout.candidates(folder)), None)]
    dist.broadcast_object_list(newest, src=0)
    reader = _open(newest[0], lambda manifest: set(manifest.files), grid)[0] if newest[0] else None
    if reader is None or reader.manifest.step < steps or damage(reader, set(reader.manifest.files), grid):
        return None
    return reader.manifest.step


def load_newest(
    folder: Path,
    grid: Grid,
    say: Callable[[str], None],
    check: Callable[[CheckpointReader], None],
    load: Callable[[CheckpointReader], None],
) -> CheckpointReader | None:
    """Load the newest undamaged checkpoint of a run; damaged ones are reported and passed over. Collective.

    Args:
        folder: the run's checkpoints.
        grid: all ranks.
        say: prints a line.
        check: raises if a checkpoint does not belong to the run; may be collective.
        load: reads this rank's part, not collectively; if that or the digests fail, the next checkpoint is tried.

    Returns:
        The checkpoint; None if the run has none yet.

    Raises:
        OctoError: it has some and none is whole. Starting from nothing would bury weights that can be restored.
    """
    # Rank 0 lists them: on a shared file system the others may see the directory a little later.
    names: list[Any] = [[path.name for path in layout.candidates(folder)] if grid.is_main else None]
    dist.broadcast_object_list(names, src=0)
    for path in (folder / name for name in names[0]):
        reader, problems = _open(path, lambda manifest: set(manifest.files), grid)
        if reader:
            check(reader)
            problems = _gathered(partial(load, reader), grid) or damage(reader, set(reader.manifest.files), grid)
            if not problems:
                return reader
        say(f"WARNING: {path.name} is damaged and will not be used: {'; '.join(problems)}")
    if names[0]:
        raise OctoError(
            f"none of the {len(names[0])} checkpoints is whole",
            where=folder,
            hint="restore one from a copy, or move the folder away to start afresh",
        )
    return None


def weights_of(source: str, recipe: Recipe, grid: Grid) -> Source:
    """Open the weights that ``checkpoint.init_from`` names, of any format. Collective.

    :func:`check_whole` compares the digests of a checkpoint of ours after it was read.

    Raises:
        OctoError: there are none, or files of them are missing, or copies in another format differ.
    """
    if grid.main_first(lambda: format_of(Path(source))) != "checkpoint":
        return grid.main_first(lambda: _other_weights(source, recipe, check=grid.is_main))
    path = layout.find_checkpoint(source)
    reader, problems = _open(path, weight_files, grid)
    if reader is None:
        raise _damaged(path, problems)
    refuse_adapters(reader.manifest, path)
    return reader


def _other_weights(source: str, recipe: Recipe, check: bool) -> Source:
    if recipe.lora:
        raise needs_checkpoint(source)
    found = open_weights(source, vocab_size=recipe.model.vocab_size)
    if check:
        found.check()
    # Padding rows are not part of these formats: there are as many as the recipe wants.
    model = found.manifest.model.model_copy(update={"vocab_multiple": recipe.model.vocab_multiple})
    found.manifest = dataclasses.replace(found.manifest, model=model)
    return found


def base_of(adapters: CheckpointReader, recipe: Recipe, grid: Grid) -> Source:
    """Open the frozen weights beside which a checkpoint's adapters were trained. Collective.

    Raises:
        OctoError: they are missing, or have changed.
    """
    base = grid.main_first(lambda: find_base(adapters, recipe.checkpoint.init_from))
    return weights_of(str(base), recipe, grid)


def check_whole(weights: Source, grid: Grid) -> None:
    """Compare digests of a checkpoint's weights after they were read. Collective.

    Raises:
        OctoError: a file is damaged.
    """
    if problems := damage(weights, weight_files(weights.manifest), grid):
        raise _damaged(weights.directory, problems)


def damage(reader: Source, files: set[str], grid: Grid) -> list[str]:
    """Compare digests of files after they were read, and return the problems. Collective.

    The rank that has digested most of a file reads the rest of it.
    """
    digested: list[Any] = [None] * grid.world
    dist.all_gather_object(digested, reader.digested())
    mine = []
    for number, file in enumerate(sorted(files)):
        ranks = [(number + rank) % grid.world for rank in range(grid.world)]
        if max(ranks, key=lambda rank: digested[rank].get(file, 0)) == grid.rank:
            mine.append(file)

    def compare() -> None:
        problems = []
        for file in mine:
            try:
                reader.opened(file).finish()
            except OctoError as error:
                problems.append(error.what.removeprefix("damaged: "))
        if problems:
            raise OctoError("; ".join(problems))

    return _gathered(compare, grid)


def weight_files(manifest: Manifest) -> set[str]:
    """Return the files that hold weights."""
    entries = manifest.tensors.get("weights", {}).values()
    return {fragment.file for entry in entries for fragment in entry.fragments}


def _damaged(path: Path, problems: list[str]) -> OctoError:
    return OctoError(
        f"damaged checkpoint: {'; '.join(problems)}",
        where=path,
        hint="name another one in checkpoint.init_from, or copy it again",
    )


def _open(path: Path, files: Callable[[Manifest], set[str]], grid: Grid) -> tuple[CheckpointReader | None, list[str]]:
    """Open a checkpoint on all ranks; None, and the problems, if its manifest or a file's size is wrong."""
    opened: list[CheckpointReader] = []

    def look() -> None:
        try:
            reader = CheckpointReader(path)
        except Exception as error:  # a directory, nested too deeply, not readable: the one before may serve
            what = error.what if isinstance(error, OctoError) else f"{type(error).__name__}: {error}"
            raise OctoError(f"{layout.MANIFEST}: {what}") from None
        opened.append(reader)
        mine = sorted(files(reader.manifest))[grid.rank :: grid.world]
        if problems := layout.check_sizes(path, reader.manifest, mine):
            raise OctoError("; ".join(problems.values()))

    problems = _gathered(look, grid)
    return (None if problems else opened[0]), problems


def _gathered(work: Callable[[], None], grid: Grid) -> list[str]:
    """Do this rank's work and return the problems of all ranks. Collective."""
    mine = None
    try:
        work()
    except OctoError as error:
        mine = error.what
    except OSError as error:
        mine = f"{type(error).__name__}: {error}"
    gathered: list[Any] = [None] * grid.world
    dist.all_gather_object(gathered, mine)
    return sorted({problem for problem in gathered if problem})
