"""Writes weights of any format as a Hugging Face model directory."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.base import HfTensor
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.source import Source
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, read_json
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.conversion.engine.block_copy import Box, Group, PlannedFile, PlannedTensor
from megatron_octo.conversion.engine.conversion_record import file_record, is_result, write_record
from megatron_octo.conversion.engine.direct_file import DirectFile
from megatron_octo.conversion.engine.job import SHARD_BYTES, Progress, convert, job_of, silent
from megatron_octo.conversion.engine.rounding import Rounding
from megatron_octo.conversion.readers.formats import INDEX, SINGLE
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.readers.special_tokens import configured, open_tokenizer, special_tokens
from megatron_octo.conversion.writers import hf_files
from megatron_octo.data.text.tokenizer import Tokenizer

_CARD, _GENERATION = "README.md", "generation_config.json"


@dataclass(frozen=True)
class Exported:
    """The result of a conversion.

    Attributes:
        source: the converted directory (a run's checkpoint).
        rounding: differences that a change of dtype made.
        reused: nothing was written, as the result was there.
    """

    source: Path
    rounding: Rounding
    reused: bool = False


def to_hf(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    tokenizer: str | Path | None = None,
    eod_token: str | None = None,
    base: str | Path | None = None,
    vocab_size: int | None = None,
    progress: Progress = silent,
    shard_bytes: int = SHARD_BYTES,
    reuse: bool = False,
) -> Exported:
    """Write ``output`` so that transformers' AutoModelForCausalLM and AutoTokenizer load it.

    Args:
        source: a run, a checkpoint, or anything that ``open_weights`` takes.
        output: directory to make.
        dtype: fp32, bf16 or fp16; by default the weights' own.
        tokenizer: a tokenizer.json; by default the run's.
        eod_token: spelling of the end of a document; by default the one of the run's data, or of the source.
        base: the weights beneath a LoRA run, if they were moved. Its adapters are merged with them.
        vocab_size: real tokens of a BigCode checkpoint.
        progress: called with bytes done and bytes in all.
        shard_bytes: size of a file (a larger tensor has one to itself).
        reuse: leave an ``output`` of the same input and options as it is.

    Raises:
        OctoError: no weights, damaged ones, a tokenizer that does not fit them, or ``output`` exists.
    """
    opened = open_weights(source, stream=True, vocab_size=vocab_size, base=base)
    model = opened.manifest.model
    found = _find_tokenizer(opened, tokenizer, eod_token)
    # Files about text are of the source's own tokenizer and of its own end.
    kept = opened.text_files if found and not tokenizer and not eod_token else {}
    architecture = find_architecture(model.architecture)
    shards = list(_shards(opened, architecture.hf_tensors(model), dtype, shard_bytes))
    groups = [(PlannedFile(_name(number, len(shards)), shard),) for number, shard in enumerate(shards, 1)]

    def finish(directory: Path, files: Mapping[str, FileRecord]) -> None:
        if found:
            hf_files.write_tokenizer(directory, found, model.max_position_embeddings)
        eod = found.eod_id if found else None
        torch_dtype = str(shards[0][0].dtype).removeprefix("torch.")
        special = special_tokens(eod, opened.manifest.provenance, eod_token is not None)
        config = {**architecture.hf_config(model, eod, torch_dtype), **configured(special)}
        hf_files.write_json_file(directory / "config.json", config, keep=("bos", "eos"))
        generation = read_json(kept[_GENERATION]) if _GENERATION in kept else {}
        hf_files.write_json_file(directory / _GENERATION, {**generation, **special})
        for name in kept.keys() - {_GENERATION}:
            shutil.copyfile(kept[name], directory / name)
        if len(groups) > 1:
            _write_index(directory, groups)
        hf_files.write_card(directory, opened, torch_dtype)
        small = {path.name: file_record(path) for path in directory.iterdir() if path.name not in {*files, _CARD}}
        write_record(directory, {**files, **small}, hf_files.provenance(opened), job)

    options = {"to": "huggingface", "tokenizer": found.digest if found else None}
    if eod_token:
        options["eod_token"] = eod_token
    job = job_of(opened, groups, options)
    if reuse and is_result(Path(output), job):
        return Exported(opened.directory, Rounding(), reused=True)
    rounding = convert(
        opened,
        output,
        groups,
        partial(SafetensorsWriter, metadata={"format": "pt"}, open_file=DirectFile),
        finish,
        options=options,
        progress=progress,
    )
    return Exported(opened.directory, rounding)


def _name(number: int, count: int) -> str:
    return SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _shards(
    source: Source, tensors: Mapping[str, HfTensor], dtype: str | None, limit: int
) -> Iterator[tuple[PlannedTensor, ...]]:
    shard: list[PlannedTensor] = []
    for name, tensor in tensors.items():
        width = torch.Size(tensor.shape[1:]).numel()
        boxes = tuple(Box(rows.parameter, "weights", (rows.start, rows.stop), (0, width)) for rows in tensor.rows)
        target = DTYPES[dtype] if dtype else source.written_dtype(boxes[0].name)
        planned = PlannedTensor(name, target, tensor.shape, boxes)
        if shard and sum(each.size for each in shard) + planned.size > limit:
            yield tuple(shard)
            shard = []
        shard.append(planned)
    yield tuple(shard)


def _write_index(directory: Path, groups: Sequence[Group]) -> None:
    files = [file for group in groups for file in group]
    weight_map = {tensor.key: file.name for file in files for tensor in file.tensors}
    total = sum(file.size for file in files)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    hf_files.write_json_file(directory / INDEX, index)


def _find_tokenizer(source: Source, given: str | Path | None, eod_token: str | None) -> Tokenizer | None:
    """Open the tokenizer.json that belongs to the weights.

    Raises:
        OctoError: it is not the one that the weights were trained with.
    """
    path = Path(given) if given else source.tokenizer
    if not given:
        source.check_text()
    if path is None and eod_token:
        raise OctoError("--eod-token needs a tokenizer.json", where=source.directory, hint="name it with --tokenizer")
    if path is None:
        return None
    if path.suffix == ".model":
        raise OctoError("transformers needs a tokenizer.json, this is a sentencepiece model", where=path)
    if not path.is_file():
        raise OctoError("no such file", where=path)
    digest = source.manifest.tokenizer
    if digest and digest_file(path) != digest:
        raise OctoError(
            "this is not the tokenizer that the checkpoint was trained with",
            where=path,
            hint="name the right tokenizer.json with --tokenizer",
        )
    tokenizer = open_tokenizer(path, source.manifest.provenance, eod_token)
    size, known = tokenizer.vocab_size, source.manifest.model.vocab_size
    if size > known:
        raise OctoError(
            f"this tokenizer has {size} tokens, the model {known}",
            where=path,
            hint="name the right tokenizer.json with --tokenizer",
        )
    return tokenizer
