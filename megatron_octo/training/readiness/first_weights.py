"""Finds the weights that a run starts from, and compares them with the recipe by manifest or configuration alone."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.directory import Manifest
from megatron_octo.checkpoint.fit import check_adapters, check_complete, check_fit, check_shape
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.formats import SINGLE, format_of, indexed_files, read_hf_config
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import RunDirectory


def check_match(recipe: Recipe, folder: Path, corpora: str | None, tokenizer: str | None) -> Path | None:
    """Compare the checkpoint that a run will start from with recipe, data and tokenizer, by its manifest alone.

    Args:
        recipe: of this start.
        folder: the run's checkpoints.
        corpora: digest of the data, None if it is not known yet.
        tokenizer: digest of the data's tokenizer.json.

    Returns:
        The checkpoint; None if the run starts from another format, or from nothing.

    Raises:
        OctoError: it is of another shape, other adapters or data, or was trained with another tokenizer.
    """
    found, source = layout.candidates(folder), recipe.checkpoint.init_from
    if not found and source:
        with contextlib.suppress(OctoError, OSError):  # another format; the loader reports what is wrong
            found = [layout.find_checkpoint(source)]
    for path in found:
        try:
            manifest = layout.read_manifest(path)
        except Exception:  # whatever is wrong with it, the one before it will be taken
            continue
        if path.parent == folder:
            check_continues(manifest, path, recipe, corpora, tokenizer)
        else:
            check_fit(manifest, recipe.model, tokenizer, path)
        return path
    return None


def check_continues(manifest: Manifest, path: Path, recipe: Recipe, corpora: str | None, tokenizer: str | None) -> None:
    """Check by its manifest that a checkpoint is of this very run.

    Raises:
        OctoError: it is of another shape, other adapters or data, was trained with another tokenizer, or holds weights
            only.
    """
    check_fit(manifest, recipe.model, tokenizer, path)
    check_adapters(recipe.lora, manifest.lora, path)
    check_complete(manifest, path)
    if corpora and manifest.state.get("corpora") != corpora:
        raise OctoError(
            "the data is not what this run was trained on (other files, ranges, weights, seed or row length)",
            where="data.train",
            hint="restore it, or start a new run_dir with checkpoint.init_from set to this run",
        )


def check_start(recipe: Recipe, run: RunDirectory, tokenizer: str | None) -> str:
    """Find the weights that a run will start from, and compare them with the recipe.

    Args:
        recipe: of the run.
        run: its directory.
        tokenizer: digest of the data's tokenizer.json, None if unknown.

    Returns:
        What they are.

    Raises:
        OctoError: they are missing, or do not fit.
    """
    source = recipe.checkpoint.init_from
    if start := check_match(recipe, run.checkpoints, None, tokenizer):
        if start.parent == run.checkpoints:
            return f"resume from {start.name}"
        refuse_adapters(layout.read_manifest(start), start)
        return f"start from {start}"
    if source is None:
        return f"fresh start, seed {recipe.train.seed}"
    path, format = Path(source), format_of(Path(source))
    if recipe.lora and format != "checkpoint":
        raise needs_checkpoint(path)
    if format == "checkpoint":
        layout.read_manifest(layout.find_checkpoint(path))  # raises what is wrong with it
    if format == "huggingface":
        # Rows of padding are not part of this format: there are as many as the recipe wants.
        multiple = {"vocab_multiple": recipe.model.vocab_multiple}
        check_shape(recipe.model, read_hf_config(path / "config.json").model_copy(update=multiple), path)
        files: Iterable[str] = set((indexed_files(path) or {"": SINGLE}).values())
        if missing := sorted(file for file in files if not (path / file).is_file()):
            raise OctoError(f"missing: {', '.join(missing)}", where=path, hint="download the model again")
    return f"start from {path} ({format})"


def refuse_adapters(manifest: Manifest, where: Path) -> None:
    """Refuse a checkpoint of adapters as the weights to start from.

    Raises:
        OctoError: it is one.
    """
    if manifest.lora:
        raise OctoError(
            "this checkpoint holds adapters, no whole weights to start from",
            where=where,
            hint="merge them first: python -m megatron_octo.convert reshard RUN OUT",
        )


def needs_checkpoint(where: str | Path) -> OctoError:
    """Return the error for a base of adapters in a format that keeps no digests."""
    return OctoError(
        "adapters need a base whose digests tell that it is still the same",
        where=where,
        hint="make a checkpoint of it: python -m megatron_octo.convert from-hf, or from-bigcode",
    )
