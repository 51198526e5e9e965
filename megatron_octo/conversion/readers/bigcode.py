"""Reads checkpoints of BigCode's fork of Megatron-LM (``bigcode/starcoderbase-megatron``) without running them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash

from megatron_octo.architectures import checked_model
from megatron_octo.architectures.parameters import WORD_EMBEDDINGS, parameter_specs
from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry
from megatron_octo.checkpoint.source import BLOCK, Source
from megatron_octo.checkpoint.tensor_file import TensorFile
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.common.torch_dtypes import DTYPE_NAMES, PRECISIONS
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.engine.torch_zip import open_records
from megatron_octo.conversion.readers.bigcode_names import (
    HEAD,
    TRUE_VOCABULARY,
    StageTensor,
    check_model,
    stage_tensors,
)
from megatron_octo.conversion.readers.bigcode_ranks import Rank, iteration_directory, read_ranks

_WORDS = "language_model.embedding.word_embeddings.weight"
_POSITIONS = "language_model.embedding.position_embeddings.weight"


def open_bigcode(directory: Path, stream: bool = False, vocab_size: int | None = None) -> Source:
    """Open a checkpoint of any tensor x pipeline layout.

    ``vocab_size`` is the number of real tokens. The format records only the padded vocabulary: without this number
    and without to-bigcode's note of it, all rows are taken as real.

    Raises:
        OctoError: a rank is missing or damaged, a pickle names objects that no checkpoint needs, or the architecture is
            another one.
    """
    directory = iteration_directory(directory)
    ranks = read_ranks(directory)
    tensor, pipeline = len(ranks), len(ranks[0])
    model = _model(directory, ranks, vocab_size)
    vocabulary = tensor * _matrix(ranks[0][0], _WORDS, directory)[0]
    listed = stage_tensors(model, vocabulary, pipeline)
    dtype = _check_tensors(directory, ranks, listed)
    opened = {
        rank.file: open_records(
            directory / rank.file,
            {part.key: rank.tensors[part.key] for part in listed if part.stage == stage},
            stream,
        )
        for row in ranks
        for stage, rank in enumerate(row)
    }
    tokenizer = directory / "tokenizer.json"
    if not tokenizer.is_file():
        tokenizer = directory.parent / "tokenizer.json"
    found = tokenizer if tokenizer.is_file() else None
    manifest = Manifest(
        model=model,
        step=0,
        precision=PRECISIONS[dtype],
        tokenizer=digest_file(found) if found else None,
        files={name: {"bytes": (directory / name).stat().st_size, "digest": ""} for name in opened},
        tensors={"weights": _entries(model, ranks, listed, DTYPE_NAMES[dtype])},
        layout={"tensor": tensor, "pipeline": pipeline, "data": 1},
        provenance={"from_bigcode": str(directory.absolute())},
    )

    def check(_: Source) -> None:
        _check_replicas(opened, ranks, listed)

    return Source(directory, "bigcode", manifest, opened.__getitem__, found, check)


def _matrix(rank: Rank, key: str, directory: Path) -> tuple[int, int]:
    """Return the shape of a matrix from which the model's shape follows."""
    if key not in rank.tensors:
        raise OctoError(f"no {key!r}: not a multi-query GPT of BigCode's", where=directory / rank.file)
    shape = rank.tensors[key].shape
    if len(shape) != 2 or not all(shape):
        raise OctoError(f"{key} is {list(shape)}, expected a matrix", where=directory / rank.file)
    return shape[0], shape[1]


def _number(rank: Rank, key: str, default: float, directory: Path) -> float:
    value = rank.arguments.get(key, default)
    if type(value) not in (int, float) or not -1e300 < value < 1e300:
        raise OctoError(f"its arguments say {key} {value!r}, expected a number", where=directory / rank.file)
    return float(value)


def _vocabulary(rank: Rank, padded: int, given: int | None, directory: Path) -> int:
    """Return the number of real tokens: as given, as to-bigcode noted it, or all rows."""
    noted = rank.arguments.get(TRUE_VOCABULARY)
    size = given if given is not None else noted if type(noted) is int else padded
    if not 0 < size <= padded:
        raise OctoError(f"vocabulary {size} does not fit {padded} rows of word embeddings", where=directory)
    return size


def _model(directory: Path, ranks: list[list[Rank]], vocab_size: int | None) -> ModelConfig:
    """Return the model's shape, from the tensors where possible and else from the arguments."""
    first, pipeline = ranks[0][0], len(ranks[0])
    rows, hidden = _matrix(first, _WORDS, directory)
    shared, _ = _matrix(first, "language_model.encoder.layers.0.self_attention.key_value.weight", directory)
    ffn, _ = _matrix(first, "language_model.encoder.layers.0.mlp.dense_h_to_4h.weight", directory)
    layers = {key.split(".")[3] for key in first.tensors if key.startswith("language_model.encoder.layers.")}
    padded = rows * len(ranks)
    arguments = first.arguments
    if arguments.get("apply_residual_connection_post_layernorm"):
        raise OctoError(
            "its arguments say apply_residual_connection_post_layernorm: such a model is not computed here",
            where=directory / first.file,
        )
    section = {
        "architecture": "gpt_bigcode",
        "num_layers": len(layers) * pipeline,
        "hidden_size": hidden,
        "num_attention_heads": 2 * hidden // shared,
        "ffn_hidden_size": ffn * len(ranks),
        "max_position_embeddings": _matrix(first, _POSITIONS, directory)[0],
        "vocab_size": _vocabulary(first, padded, vocab_size, directory),
        "layernorm_epsilon": _number(first, "layernorm_epsilon", 1e-5, directory),
        "hidden_dropout": _number(first, "hidden_dropout", 0.0, directory),
        "attention_dropout": _number(first, "attention_dropout", 0.0, directory),
        "init_std": _number(first, "init_method_std", 0.02, directory),
        "activation": _activation(arguments),
    }
    for key in ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size"):
        said = arguments.get(key, section[key])
        if type(said) is not int or said != section[key]:
            raise OctoError(
                f"its arguments say {key} {said!r}, its tensors {section[key]}",
                where=directory / first.file,
            )
    try:
        model = checked_model(section)
    except ValueError as error:
        raise OctoError(f"bad shape: {error}", where=directory) from None
    check_model(model, directory)
    return model


def _activation(arguments: Mapping[str, Any]) -> str:
    """Return the activation: fused bias + gelu and openai_gelu are the tanh form, without either it is exact."""
    return "gelu_tanh" if arguments.get("bias_gelu_fusion", True) or arguments.get("openai_gelu") else "gelu"


def _check_tensors(directory: Path, ranks: list[list[Rank]], listed: list[StageTensor]) -> torch.dtype:
    """Check names and shapes on every rank; returns the one dtype."""
    dtypes = set()
    for number, row in enumerate(ranks):
        for stage, rank in enumerate(row):
            wanted = [part for part in listed if part.stage == stage]
            keys = {part.key for part in wanted}
            unexpected = sorted(set(rank.tensors) - keys)
            if missing := sorted(keys - set(rank.tensors)):
                raise OctoError(
                    f"missing {missing[:3]}, unexpected {unexpected[:3] or 'none'}",
                    where=directory / rank.file,
                )
            if unexpected:
                raise OctoError(f"unexpected tensors {unexpected[:3]}", where=directory / rank.file)
            for part in wanted:
                found, shape = rank.tensors[part.key], part.box(number, len(ranks))[1]
                if found.shape != shape:
                    raise OctoError(
                        f"{part.key} is {list(found.shape)}, expected {list(shape)}",
                        where=directory / rank.file,
                    )
                dtypes.add(found.dtype)
    if len(dtypes) != 1 or not dtypes <= set(PRECISIONS):
        raise OctoError(
            f"weights of dtype {sorted(map(str, dtypes))}, expected one of {list(PRECISIONS.values())}",
            where=directory,
        )
    return dtypes.pop()


def _entries(
    model: ModelConfig, ranks: list[list[Rank]], listed: list[StageTensor], dtype: str
) -> dict[str, TensorEntry]:
    specs = parameter_specs(model)
    fragments: dict[str, list[Fragment]] = {name: [] for name in specs}
    for part in listed:
        if part.key == HEAD:
            continue
        for number in range(len(ranks) if part.axis is not None else 1):
            offset, shape = part.box(number, len(ranks))
            rows = min(shape[0], specs[part.name].rows - offset[0])  # the rest is padding
            if rows > 0:
                file = ranks[number][part.stage].file
                fragments[part.name].append(Fragment(file, part.key, offset, (rows, *shape[1:])))
    return {name: TensorEntry(spec.shape, dtype, tuple(fragments[name])) for name, spec in specs.items()}


def _check_replicas(opened: Mapping[str, TensorFile], ranks: list[list[Rank]], listed: list[StageTensor]) -> None:
    """Check that tensors which several ranks hold are equal on all of them."""
    for part in listed:
        row = [each[part.stage].file for each in ranks]
        if part.key == HEAD:
            pairs = [((each[0].file, _WORDS), (each[-1].file, HEAD)) for each in ranks]
        elif part.axis is None:
            pairs = [((row[0], part.key), (file, part.key)) for file in row[1:]]
        else:
            continue
        digests: dict[tuple[str, str], str] = {}
        for pair in pairs:
            for file, key in pair:
                if (file, key) not in digests:
                    digests[file, key] = _digest(opened[file], key)
            if digests[pair[0]] != digests[pair[1]]:
                what = "the word embeddings" if part.name == WORD_EMBEDDINGS else part.key
                raise OctoError(
                    f"{what} differ between {pair[0][0]} and {pair[1][0]}, where they are the same tensor",
                    where=opened[pair[1][0]].path,
                    hint="its ranks come from different steps, or one is damaged",
                )


def _digest(file: TensorFile, key: str) -> str:
    state, stored = xxhash.xxh3_128(), file.tensors[key]
    buffer = memoryview(bytearray(min(BLOCK, stored.size)))
    for start in range(0, stored.size, BLOCK):
        piece = buffer[: min(BLOCK, stored.size - start)]
        file.read(stored.start + start, piece)
        state.update(piece)
    return state.hexdigest()
