"""Which checkpoint a run starts from: nothing is loaded before its digests were compared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.adapter_base import find_base
from megatron_octo.checkpoint.directory import Manifest
from megatron_octo.checkpoint.reader import CheckpointReader, WeightReader
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.open_weights import format_of, open_weights
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe


def newest_good(folder: Path, grid: Grid, say: Callable[[str], None]) -> CheckpointReader | None:
    """The newest checkpoint of a run that is whole; damaged ones are named and passed over. Collective.

    Returns:
        None if the run has no checkpoint yet.

    Raises:
        OctoError: it has some and none is whole. Starting again from nothing would bury what can be saved.
    """
    # Rank 0 looks and tells: on a shared file system the others may see the directory a little later.
    names: list[Any] = [[path.name for path in layout.candidates(folder)] if grid.is_main else None]
    dist.broadcast_object_list(names, src=0)
    for path in (folder / name for name in names[0]):
        problems = _problems(path, lambda manifest: set(manifest.files), grid)
        if not problems:
            return CheckpointReader(path)
        say(f"WARNING: {path.name} is damaged and will not be used: {'; '.join(problems)}")
    if names[0]:
        raise OctoError(
            f"none of the {len(names[0])} checkpoints is whole",
            where=folder,
            hint="restore one from a copy, or move the folder away to start afresh",
        )
    return None


def weights_of(source: str, recipe: Recipe, grid: Grid) -> WeightReader:
    """The weights that ``checkpoint.init_from`` means: of a run or a checkpoint, or of another format. Collective.

    Raises:
        OctoError: there are none, or they are damaged. What another format knows of its own damage is checked: ours
            keeps digests of all its files.
    """
    if grid.main_first(lambda: format_of(Path(source))) != "checkpoint":
        return grid.main_first(lambda: _other_weights(source, recipe, check=grid.is_main))
    path = layout.find_checkpoint(source)
    if problems := _problems(path, _weight_files, grid):
        raise OctoError(
            f"damaged checkpoint: {'; '.join(problems)}",
            where=path,
            hint="name another one in checkpoint.init_from, or copy it again",
        )
    reader = CheckpointReader(path)
    if reader.manifest.lora:
        raise OctoError(
            "this checkpoint holds adapters, no whole weights to start from",
            where=path,
            hint="merge them first: python -m megatron_octo.convert reshard RUN OUT",
        )
    return reader


def _other_weights(source: str, recipe: Recipe, check: bool) -> WeightReader:
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


def base_of(adapters: CheckpointReader, recipe: Recipe, grid: Grid) -> WeightReader:
    """The frozen weights beside which a checkpoint's adapters were trained, verified. Collective.

    Raises:
        OctoError: they are gone, or no longer the same.
    """
    base = grid.main_first(lambda: find_base(adapters, recipe.checkpoint.init_from))
    return weights_of(str(base), recipe, grid)


def check_tokenizer(theirs: str | None, ours: str | None, where: Path) -> None:
    """Raises:
    OctoError: a checkpoint and the data are of different tokenizers; both are digests, None is not known.
    """
    if theirs and ours and theirs != ours:
        raise OctoError(
            "the checkpoint was trained with another tokenizer than the data",
            where=where,
            hint="preprocess the data with the checkpoint's tokenizer.json",
        )


def _weight_files(manifest: Manifest) -> set[str]:
    return {
        fragment.file
        for entry in manifest.tensors.get("weights", {}).values()
        for fragment in entry.fragments
    }


def _problems(path: Path, files: Callable[[Manifest], set[str]], grid: Grid) -> list[str]:
    """What is wrong with some files of a checkpoint. Every rank looks at its share: the cost is one rank's files'."""
    try:
        manifest = layout.read_manifest(path)
        mine = layout.check_files(path, manifest, sorted(files(manifest))[grid.rank :: grid.world])
    except OctoError as error:
        mine = [f"{layout.MANIFEST}: {error.what}"]
    gathered: list[Any] = [None] * grid.world
    dist.all_gather_object(gathered, mine)
    return sorted({problem for part in gathered for problem in part})
