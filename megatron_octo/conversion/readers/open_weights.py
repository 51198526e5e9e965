"""``open_weights``: a run, a checkpoint, a Hugging Face directory or a legacy one, told apart by what lies there."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.checkpoint.directory import (
    CHECKPOINTS,
    MANIFEST,
    candidates,
    find_checkpoint,
    read_manifest,
)
from megatron_octo.checkpoint.tensor_file import TensorFile, open_safetensors
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.source import Source
from megatron_octo.conversion.readers.bigcode import open_bigcode
from megatron_octo.conversion.readers.bigcode_ranks import is_bigcode
from megatron_octo.conversion.readers.hf_source import is_hf, open_hf
from megatron_octo.conversion.readers.merged_adapters import MergedSource, find_base_of

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
    """Weights in any format that the library reads.

    Args:
        path: a run, a checkpoint or a folder of them, a Hugging Face model directory, or a checkpoint of the
            Megatron-LM fork of BigCode (``latest_checkpointed_iteration.txt`` and ``mp_rank_XX``).
        stream: all of it will be read once, more or less in order; bytes read are then dropped from the page cache.
        vocab_size: real tokens of a BigCode checkpoint, which knows its padded vocabulary alone.
        base: where the weights beneath a LoRA run are, if they were moved. Its adapters are merged with them.
        rounded: adapted weights as a conversion would write them, in the base's dtype; else in fp32, as computed.
        expected: the one format that will do.

    Raises:
        OctoError: nothing of this kind is there, it is damaged or of another architecture, or a base is gone.
    """
    path = Path(path)
    format = format_of(path)
    if expected and format != expected:
        raise OctoError(f"this is {_NAMES[format]}, not {_NAMES[expected]}", where=path)
    if format == "huggingface":
        return open_hf(path, stream)
    if format == "bigcode":
        return open_bigcode(path, stream, vocab_size)
    source = open_checkpoint(find_checkpoint(path), stream)
    if source.manifest.lora is None:
        return source
    return MergedSource(source, open_checkpoint(find_base_of(source, base), stream), rounded)


def check_options(paths: Sequence[str | Path], vocab_size: int | None, base: str | Path | None) -> None:
    """Whether one of the paths has a use for what was said.

    Raises:
        OctoError: none has, so that it would be silently left aside.
    """
    formats = {Path(path): format_of(Path(path)) for path in paths}
    where = " and ".join(str(path) for path in formats)
    if vocab_size is not None and "bigcode" not in formats.values():
        raise OctoError(
            "--vocab-size is for a BigCode checkpoint; other formats know the size of their vocabulary",
            where=where,
            hint="leave it out",
        )
    if base is not None and not any(
        format == "checkpoint" and read_manifest(find_checkpoint(path)).lora
        for path, format in formats.items()
    ):
        raise OctoError(
            "--base-weights is for a LoRA run; here are whole weights", where=where, hint="leave it out"
        )


def format_of(path: Path) -> str:
    """``checkpoint``, ``huggingface`` or ``bigcode``.

    Raises:
        OctoError: none of them.
    """
    if not path.is_dir():
        raise OctoError("no such directory", where=path)
    if (path / MANIFEST).is_file() or (path / CHECKPOINTS).is_dir() or candidates(path):
        return "checkpoint"
    if is_hf(path):
        return "huggingface"
    if is_bigcode(path):
        return "bigcode"
    raise OctoError(
        "no weights here",
        where=path,
        hint="expected a run, a checkpoint (manifest.json), a Hugging Face model (config.json), "
        "or a checkpoint of BigCode's Megatron-LM (latest_checkpointed_iteration.txt)",
    )


def open_checkpoint(directory: Path, stream: bool = False) -> Source:
    """A checkpoint of ours; streamed, its digests are compared.

    Raises:
        OctoError: no manifest, or a broken one.
    """
    manifest = read_manifest(directory)

    def open_file(name: str) -> TensorFile:
        path, record = directory / name, manifest.files.get(name)
        if record is None:
            raise OctoError(f"damaged checkpoint: {name} is not in the manifest", where=directory)
        if path.is_file() and path.stat().st_size != record["bytes"]:
            raise OctoError(
                f"damaged checkpoint: {name} has {path.stat().st_size} bytes, expected {record['bytes']}",
                where=path,
            )
        return open_safetensors(path, record["digest"] if stream else None, stream)

    places = [directory / "tokenizer.json", directory.parent.parent / "tokenizer.json"]
    tokenizer = next((place for place in places if place.is_file()), None)
    return Source(directory, "checkpoint", manifest, open_file, tokenizer)
