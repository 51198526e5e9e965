"""Opens weights of any format: a run, a checkpoint, a Hugging Face directory or a BigCode checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.architectures.adapters import adapter_parameters
from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.adapter_base import find_base
from megatron_octo.checkpoint.directory import (
    Manifest,
    find_checkpoint,
    read_manifest,
)
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.source import Source
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.bigcode import open_bigcode
from megatron_octo.conversion.readers.formats import format_of
from megatron_octo.conversion.readers.hf_source import open_hf
from megatron_octo.conversion.readers.merged_adapters import MergedSource

_NAMES = {
    "checkpoint": "a run or a checkpoint of ours",
    "huggingface": "a Hugging Face model",
    "bigcode": "a checkpoint of BigCode's Megatron-LM",
}


def open_weights(
    path: str | Path,
    stream: bool = False,
    *,
    vocab_size: int | None = None,
    base: str | Path | None = None,
    rounded: bool = False,
    expected: str | None = None,
) -> Source:
    """Open weights in any format that the library reads.

    Args:
        path: a run, a checkpoint or a folder of them, a Hugging Face model directory, or a checkpoint of the
            Megatron-LM fork of BigCode (``latest_checkpointed_iteration.txt`` and ``mp_rank_XX``).
        stream: everything will be read once, more or less in order; the page cache keeps none of it.
        vocab_size: real tokens of a BigCode checkpoint, which records only its padded vocabulary.
        base: the weights beneath a LoRA run, if they were moved. Its adapters are merged with them.
        rounded: round adapted weights to the base's dtype as a conversion does; else they are in fp32.
        expected: the only format to accept.

    Raises:
        OctoError: there are no such weights, they are damaged or of another architecture, or a base is missing.
    """
    path = Path(path)
    format = format_of(path)
    if expected and format != expected:
        raise OctoError(f"this is {_NAMES[format]}, not {_NAMES[expected]}", where=path)
    if format == "huggingface":
        return open_hf(path, stream)
    if format == "bigcode":
        return open_bigcode(path, stream, vocab_size)
    source = CheckpointReader(find_checkpoint(path), stream)
    _check_complete(source.manifest, source.directory)
    if source.manifest.lora is None:
        return source
    return MergedSource(source, CheckpointReader(find_base(source, base), stream), rounded)


def _check_complete(manifest: Manifest, where: Path) -> None:
    """Check that a checkpoint of ours holds all tensors of its model, in their shapes."""
    model, lora = manifest.model, manifest.lora
    specs = adapter_parameters(model, lora) if lora else parameter_specs(model)
    for kind, entries in manifest.tensors.items():
        wrong = sorted(specs.keys() ^ entries.keys()) or [
            name for name, spec in specs.items() if entries[name].shape != spec.shape
        ]
        if wrong and (kind == "weights" or entries):
            raise OctoError(
                f"damaged checkpoint: {wrong[0]!r} of its {kind} is missing, unknown or of another shape",
                where=where,
            )
    if not manifest.tensors.get("weights"):
        raise OctoError("damaged checkpoint: it holds no weights", where=where)


def check_options(paths: Sequence[str | Path], vocab_size: int | None, base: str | Path | None) -> None:
    """Check that each option applies to one of the paths.

    Raises:
        OctoError: one applies to none of them.
    """
    formats = {Path(path): format_of(Path(path)) for path in paths}
    where = " and ".join(str(path) for path in formats)
    if vocab_size is not None and "bigcode" not in formats.values():
        raise OctoError(
            "--vocab-size is for a BigCode checkpoint; other formats record the size of their vocabulary",
            where=where,
            hint="leave it out",
        )
    if base is not None and not any(
        format == "checkpoint" and read_manifest(find_checkpoint(path)).lora for path, format in formats.items()
    ):
        raise OctoError("--base-weights is for a LoRA run; here are whole weights", where=where, hint="leave it out")
