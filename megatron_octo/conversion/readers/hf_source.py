"""Reads a Hugging Face model directory under our names."""

import re
from pathlib import Path

import torch

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry
from megatron_octo.checkpoint.source import BLOCK, TEXT_FILES, RowsFragment, Source, as_bytes
from megatron_octo.checkpoint.tensor_file import Stored, TensorFile, open_safetensors
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.common.torch_dtypes import DTYPE_NAMES, PRECISIONS
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.engine.conversion_record import recorded_digests
from megatron_octo.conversion.readers.formats import INDEX, SINGLE, indexed_files, read_hf_config
from megatron_octo.conversion.readers.special_tokens import KEY, read_special_tokens

_ADAPTER = "adapter_config.json"
# Files about text beside tokenizer.json, which a conversion there and back keeps.
_TEXT_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def open_hf(directory: Path, stream: bool = False) -> Source:
    """Open a model and compare its tensors' names, shapes and dtypes with its ``config.json``.

    Raises:
        OctoError: another architecture, no safetensors, a shard is missing or damaged, missing or unexpected tensors.
    """
    if (directory / _ADAPTER).is_file():
        raise OctoError(
            f"{_ADAPTER} lies beside the model: transformers would load that adapter on its base, and not this model",
            where=directory,
            hint="move the adapter, or the model, into a directory of its own",
        )
    record = recorded_digests(directory)
    model = read_hf_config(directory / "config.json")
    file_of = weight_map(directory)
    opened = {
        file: open_safetensors(directory / file, record.get(file), stream) for file in sorted(set(file_of.values()))
    }
    _check_shards(opened, file_of)
    ignored = re.compile(find_architecture(model.architecture).ignored)
    file_of = {name: file for name, file in file_of.items() if not ignored.fullmatch(name)}
    stored = {name: _stored(opened[file], name) for name, file in file_of.items()}
    dtype = _check(directory, stored, model)
    tokenizer = directory / "tokenizer.json"
    special = read_special_tokens(directory, model.vocab_size)
    text = {name: directory / name for name in _TEXT_FILES if (directory / name).is_file()}
    digests = {TEXT_FILES: {name: digest_file(path) for name, path in text.items()}} if text else {}
    manifest = Manifest(
        model=model,
        step=0,
        precision=PRECISIONS[dtype],
        tokenizer=digest_file(tokenizer) if tokenizer.is_file() else None,
        files={file: {"bytes": each.path.stat().st_size, "digest": ""} for file, each in opened.items()},
        tensors={"weights": _entries(model, file_of, DTYPE_NAMES[dtype])},
        provenance={"from_hf": str(directory.absolute()), **({KEY: special} if special else {}), **digests},
    )

    def check(source: Source) -> None:
        _check_aliases(source, stored, file_of, model)

    found = tokenizer if tokenizer.is_file() else None
    source = Source(directory, "huggingface", manifest, opened.__getitem__, found, check)
    source.text_files = text
    return source


def weight_map(directory: Path) -> dict[str, str]:
    """Return tensor -> file, of the files that transformers loads."""
    if (indexed := indexed_files(directory)) is not None:
        return indexed
    return dict.fromkeys(open_safetensors(directory / SINGLE).tensors, SINGLE)


def _check_shards(opened: dict[str, TensorFile], file_of: dict[str, str]) -> None:
    """Check that shards hold no other tensors than the index says: transformers loads all that they hold."""
    for file, each in opened.items():
        if extra := sorted(name for name in each.tensors if file_of.get(name) != file):
            other = file_of.get(extra[0])
            raise OctoError(
                f"{INDEX} says that {extra[0]!r} is in {other}" if other else f"{INDEX} does not name {extra[0]!r}",
                where=each.path,
                hint="shards and index are of different models: copy them again, or save the model again",
            )


def _stored(file: TensorFile, name: str) -> Stored:
    if name not in file.tensors:
        raise OctoError(f"damaged model: {INDEX} names {name!r} in it, which is missing", where=file.path)
    return file.tensors[name]


def _check(directory: Path, stored: dict[str, Stored], model: ModelConfig) -> torch.dtype:
    """Check names and shapes of a model's tensors; returns their one dtype."""
    architecture = find_architecture(model.architecture)
    expected = architecture.hf_tensors(model)
    missing = sorted(set(expected) - set(stored))
    unexpected = sorted(set(stored) - set(expected) - set(architecture.hf_aliases(model)))
    if missing or unexpected:
        raise OctoError(
            f"tensors do not fit config.json: missing {missing[:3] or 'none'}, unexpected {unexpected[:3] or 'none'}",
            where=directory,
        )
    for name, tensor in expected.items():
        if stored[name].shape != tensor.shape:
            raise OctoError(
                f"{name} is {list(stored[name].shape)}, config.json says {list(tensor.shape)}",
                where=directory,
            )
    dtypes = {stored[name].dtype for name in expected}
    if len(dtypes) != 1 or not dtypes <= set(PRECISIONS):
        raise OctoError(
            f"tensors of dtype {sorted(DTYPE_NAMES[dtype] for dtype in dtypes)}, "
            f"expected one of {[DTYPE_NAMES[dtype] for dtype in PRECISIONS]} for all",
            where=directory,
        )
    return dtypes.pop()


def _entries(model: ModelConfig, file_of: dict[str, str], dtype: str) -> dict[str, TensorEntry]:
    fragments: dict[str, list[Fragment]] = {name: [] for name in parameter_specs(model)}
    for name, tensor in find_architecture(model.architecture).hf_tensors(model).items():
        row = 0
        for rows in tensor.rows:
            count, rest = rows.stop - rows.start, tensor.shape[1:]
            box = ((rows.start, *(0 for _ in rest)), (count, *rest))
            fragments[rows.parameter].append(RowsFragment(file_of[name], name, *box, row=row))
            row += count
    return {
        name: TensorEntry(spec.shape, dtype, tuple(fragments[name])) for name, spec in parameter_specs(model).items()
    }


def _check_aliases(source: Source, stored: dict[str, Stored], file_of: dict[str, str], model: ModelConfig) -> None:
    """Check that copies of tied tensors, which some writers store, are equal."""
    for alias, name in find_architecture(model.architecture).hf_aliases(model).items():
        if alias not in stored:
            continue
        ours, theirs = stored[name], stored[alias]
        same = (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        for start in range(0, ours.size, BLOCK) if same else ():
            count = min(BLOCK, ours.size - start)
            blocks = []
            for key, place in ((name, ours), (alias, theirs)):
                block = torch.empty(count, dtype=torch.uint8)
                source.opened(file_of[key]).read(place.start + start, as_bytes(block))
                blocks.append(block)
            same = same and torch.equal(*blocks)
        if not same:
            raise OctoError(
                f"{alias} and {name} differ, and config.json ties them",
                where=source.directory,
                hint='if they are not, set "tie_word_embeddings": false there',
            )
