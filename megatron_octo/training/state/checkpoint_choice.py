"""Choice of the checkpoint that a run starts from; nothing is loaded before its digests were compared."""

import contextlib
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
from megatron_octo.model.weights import check_adapters, check_shape
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.samples import find_gaps, read_samples
from megatron_octo.runfiles.steps import last_recorded_step


def check_match(recipe: Recipe, folder: Path, corpora: str, tokenizer: str | None) -> None:
    """Compare the checkpoint that a run will start from with its recipe, data and tokenizer, by its manifest alone.

    Args:
        folder: the run's checkpoints.
        corpora, tokenizer: digests of the data and of its tokenizer.json.

    Raises:
        OctoError: it is of another shape, other adapters or data, or was trained with another tokenizer.
    """
    found = layout.candidates(folder)
    resumed = bool(found)
    if not found and recipe.checkpoint.init_from:
        with contextlib.suppress(OctoError, OSError):  # not an octo checkpoint; the loader reports the error
            found = [layout.find_checkpoint(recipe.checkpoint.init_from)]
    for path in found:
        manifest = _read_manifest(path)
        if isinstance(manifest, str):  # damaged: the one before it will be taken
            continue
        check_shape(recipe.model, manifest.model, path)
        check_tokenizer(manifest.tokenizer, tokenizer, path)
        if resumed:
            check_adapters(recipe.lora, manifest.lora, path)
        if resumed and manifest.state.get("corpora", corpora) != corpora:
            raise OctoError(
                "the data is not what this run was trained on (other files, ranges, weights, seed or row length)",
                where="data.train",
                hint="restore it, or start a new run_dir with checkpoint.init_from set to this run",
            )
        return


def _read_manifest(path: Path) -> Manifest | str:
    """Return a checkpoint's manifest, or what is wrong with it."""
    try:
        return layout.read_manifest(path)
    except (
        Exception
    ) as error:  # a directory, nested too deeply, not readable: the checkpoint before may serve
        return f"{layout.MANIFEST}: {_described(error)}"


def _described(error: Exception) -> str:
    return error.what if isinstance(error, OctoError) else f"{type(error).__name__}: {error}"


def missing_records(run: Path, step: int) -> list[str]:
    """Return warnings about records that a run which goes on after a step should have."""
    last = last_recorded_step(run)
    if step == 0 and last is not None:
        return [f"this run recorded steps up to {last}, but has no checkpoint: it begins again at step 1"]
    try:
        gaps = find_gaps(read_samples(run), step) if step else []
    except OctoError as error:
        gaps = [error.what]
    if not gaps:
        return []
    more = f"; and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    return [
        f"samples.bin is not complete, so not every step can be traced to its rows: {'; '.join(gaps[:3])}{more}"
    ]


def newest_good(folder: Path, grid: Grid, say: Callable[[str], None]) -> CheckpointReader | None:
    """Return the newest checkpoint of a run that is whole; damaged ones are named and passed over. Collective.

    Returns:
        None if the run has no checkpoint yet.

    Raises:
        OctoError: it has some and none is whole. Starting again from nothing would bury what can be saved.
    """
    # Rank 0 lists them: on a shared file system the others may see the directory a little later.
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
    """Open the weights of ``checkpoint.init_from``: of a run or a checkpoint, or of another format. Collective.

    Raises:
        OctoError: there are none, or they are damaged (another format may not show all damage).
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
    # Padding rows are not part of these formats: there are as many as the recipe wants.
    model = found.manifest.model.model_copy(update={"vocab_multiple": recipe.model.vocab_multiple})
    found.manifest = dataclasses.replace(found.manifest, model=model)
    return found


def base_of(adapters: CheckpointReader, recipe: Recipe, grid: Grid) -> WeightReader:
    """Open and verify the frozen weights beside which a checkpoint's adapters were trained. Collective.

    Raises:
        OctoError: they are gone, or no longer the same.
    """
    base = grid.main_first(lambda: find_base(adapters, recipe.checkpoint.init_from))
    return weights_of(str(base), recipe, grid)


def check_tokenizer(theirs: str | None, ours: str | None, where: Path) -> None:
    """Compare the tokenizer digests of a checkpoint and of the data; None: not known.

    Raises:
        OctoError: they differ.
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
    """Return what is wrong with some files of a checkpoint; every rank reads its share. Collective."""
    manifest = _read_manifest(path)
    if isinstance(manifest, str):
        mine = [manifest]
    else:
        try:
            mine = layout.check_files(path, manifest, sorted(files(manifest))[grid.rank :: grid.world])
        except Exception as error:  # whatever is wrong with it, the one before may serve
            mine = [_described(error)]
    gathered: list[Any] = [None] * grid.world
    dist.all_gather_object(gathered, mine)
    return sorted({problem for part in gathered for problem in part})
