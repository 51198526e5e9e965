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
from megatron_octo.conversion.readers.open_weights import format_of, open_weights
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe


def load_newest(
    folder: Path,
    grid: Grid,
    say: Callable[[str], None],
    check: Callable[[CheckpointReader], None],
    load: Callable[[CheckpointReader], None],
) -> CheckpointReader | None:
    """Load the newest undamaged checkpoint of a run; damaged ones are reported and passed over. Collective.

    Args:
        check: raises if a checkpoint does not belong to the run; may be collective.
        load: reads this rank's part, not collectively; if that or the digests fail, the next checkpoint is tried.

    Returns:
        The checkpoint; None if the run has none yet.

    Raises:
        OctoError: it has some and none is whole. Starting from nothing would bury weights that can be restored.
    """
    # Rank 0 looks and tells: on a shared file system the others may see the directory a little later.
    names: list[Any] = [[path.name for path in layout.candidates(folder)] if grid.is_main else None]
    dist.broadcast_object_list(names, src=0)
    for path in (folder / name for name in names[0]):
        reader, problems = _open(path, lambda manifest: set(manifest.files), grid)
        if reader:
            check(reader)
            problems = _gathered(partial(load, reader), grid) or damage(
                reader, set(reader.manifest.files), grid
            )
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
    if reader.manifest.lora:
        raise OctoError(
            "this checkpoint holds adapters, no whole weights to start from",
            where=path,
            hint="merge them first: python -m megatron_octo.convert reshard RUN OUT",
        )
    return reader


def _other_weights(source: str, recipe: Recipe, check: bool) -> Source:
    if recipe.lora:
        raise OctoError(
            "adapters need a base whose digests tell that it is still the same",
            where=source,
            hint="make a checkpoint of it: python -m megatron_octo.convert from-hf, or from-bigcode",
        )
    found = open_weights(source, vocab_size=recipe.model.vocab_size)
    if check:
        found.check()
    # Rows of padding are no part of these formats: there are as many as the recipe wants.
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
    if not isinstance(weights, CheckpointReader):
        return
    if problems := damage(weights, weight_files(weights.manifest), grid):
        raise _damaged(weights.directory, problems)


def damage(reader: CheckpointReader, files: set[str], grid: Grid) -> list[str]:
    """Compare digests of files after they were read; returns the problems. Collective.

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


def _open(
    path: Path, files: Callable[[Manifest], set[str]], grid: Grid
) -> tuple[CheckpointReader | None, list[str]]:
    """Open a checkpoint on all ranks; None, and the problems, if its manifest or a file's size is wrong."""
    opened: list[CheckpointReader] = []

    def look() -> None:
        try:
            reader = CheckpointReader(path)
        except OctoError as error:
            raise OctoError(f"{layout.MANIFEST}: {error.what}") from None
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
    gathered: list[Any] = [None] * grid.world
    dist.all_gather_object(gathered, mine)
    return sorted({problem for problem in gathered if problem})
