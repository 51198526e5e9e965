"""Checkpoints of BigCode's fork of Megatron-LM (``bigcode/starcoderbase-megatron``), read without running them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from megatron_octo.checkpoint.layout import Fragment, Manifest, TensorEntry
from megatron_octo.checkpoint.tensorfile import Stored, TensorFile
from megatron_octo.checkpoint.tensors import DTYPE_NAMES
from megatron_octo.config import ModelConfig
from megatron_octo.conversion.bigcode_names import (
    FILES,
    HEAD,
    TRACKER,
    Part,
    check_model,
    flatten,
    parts,
)
from megatron_octo.conversion.hf_source import PRECISIONS
from megatron_octo.conversion.source import BLOCK, Source
from megatron_octo.conversion.torch_zip import TorchFile, open_records
from megatron_octo.errors import OctoError
from megatron_octo.files import digest_file
from megatron_octo.model.layout import WORD_EMBEDDINGS, parameter_specs

_RANK = re.compile(r"^mp_rank_(\d{2,})(?:_(\d{3,}))?$")
_WORDS = "language_model.embedding.word_embeddings.weight"
_POSITIONS = "language_model.embedding.position_embeddings.weight"


@dataclass(frozen=True)
class _Rank:
    """One file: its name in the directory, where its tensors are by dotted path, and its arguments."""

    file: str
    tensors: dict[str, Stored]
    arguments: Mapping[str, Any]


def is_bigcode(directory: Path) -> bool:
    return (directory / TRACKER).is_file() or any(
        _RANK.match(path.name) for path in directory.glob("mp_rank_*")
    )


def open_bigcode(directory: Path, stream: bool = False, vocab_size: int | None = None) -> Source:
    """Open a checkpoint of any tensor x pipeline layout.

    Args:
        vocab_size: real tokens. The format knows the padded vocabulary alone; without this number all of it is real.

    Raises:
        OctoError: a rank is missing or damaged, a pickle asks for what no checkpoint needs, or another architecture.
    """
    directory = _iteration(directory)
    files = _rank_files(directory)
    tensor, pipeline = len(files), len(files[0])
    ranks = [[_read_rank(directory, name) for name in row] for row in files]
    model = _model(directory, ranks, vocab_size)
    vocabulary = tensor * _tensor(ranks[0][0], _WORDS, directory).shape[0]
    listed = parts(model, vocabulary, pipeline)
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


def _iteration(directory: Path) -> Path:
    """The directory with the ranks."""
    if not (directory / TRACKER).is_file():
        return directory
    name = (directory / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    found = directory / (f"iter_{int(name):07d}" if name.isdecimal() else "release")
    if name != "release" and not name.isdecimal():
        raise OctoError(f"neither an iteration nor 'release': {name[:40]!r}", where=directory / TRACKER)
    if not found.is_dir():
        raise OctoError(f"{TRACKER} names {found.name}, which is not there", where=directory)
    return found


def _rank_files(directory: Path) -> list[list[str]]:
    """File names by tensor rank and pipeline stage."""
    found: dict[tuple[int, int], str] = {}
    for path in directory.glob("mp_rank_*"):
        match = _RANK.match(path.name)
        file = next((name for name in FILES if (path / name).is_file()), None)
        if match and file:
            found[int(match[1]), int(match[2] or 0)] = f"{path.name}/{file}"
    if not found:
        raise OctoError(f"no mp_rank_XX/{FILES[0]} here", where=directory)
    tensor, pipeline = (1 + max(rank[axis] for rank in found) for axis in (0, 1))
    missing = [(t, p) for t in range(tensor) for p in range(pipeline) if (t, p) not in found]
    if missing:
        t, p = missing[0]
        raise OctoError(
            f"{len(missing)} of {tensor * pipeline} ranks are missing, the first is tensor rank {t} of stage {p} "
            f"(mp_rank_{t:02d}{f'_{p:03d}' if pipeline > 1 else ''})",
            where=directory,
        )
    return [[found[t, p] for p in range(pipeline)] for t in range(tensor)]


def _read_rank(directory: Path, name: str) -> _Rank:
    file = TorchFile(directory / name)
    tree = file.tree
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise OctoError("no Megatron checkpoint: it has no 'model'", where=directory / name)
    leaves = {
        key.replace("language_model.transformer.", "language_model.encoder."): value
        for key, value in flatten(tree["model"]).items()
    }
    tensors = {key: file.place(key, value) for key, value in leaves.items() if isinstance(value, Tensor)}
    arguments = tree.get("args")
    return _Rank(
        name, tensors, arguments if isinstance(arguments, dict) else getattr(arguments, "__dict__", {})
    )


def _tensor(rank: _Rank, key: str, directory: Path) -> Stored:
    if key not in rank.tensors:
        raise OctoError(f"no {key!r}: not a multi-query GPT of BigCode's", where=directory / rank.file)
    return rank.tensors[key]


def _model(directory: Path, ranks: list[list[_Rank]], vocab_size: int | None) -> ModelConfig:
    """The shape, from the tensors where they tell it and from the arguments where they do not."""
    first, pipeline = ranks[0][0], len(ranks[0])
    rows, hidden = _tensor(first, _WORDS, directory).shape
    shared = _tensor(
        first, "language_model.encoder.layers.0.self_attention.key_value.weight", directory
    ).shape[0]
    ffn = _tensor(first, "language_model.encoder.layers.0.mlp.dense_h_to_4h.weight", directory).shape[0]
    layers = {key.split(".")[3] for key in first.tensors if key.startswith("language_model.encoder.layers.")}
    padded = rows * len(ranks)
    if vocab_size is not None and not 0 < vocab_size <= padded:
        raise OctoError(
            f"vocabulary {vocab_size} does not fit {padded} rows of word embeddings", where=directory
        )
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
        "max_position_embeddings": _tensor(first, _POSITIONS, directory).shape[0],
        "vocab_size": vocab_size or padded,
        "layernorm_epsilon": float(arguments.get("layernorm_epsilon", 1e-5)),
        "hidden_dropout": float(arguments.get("hidden_dropout", 0.0)),
        "attention_dropout": float(arguments.get("attention_dropout", 0.0)),
        "init_std": float(arguments.get("init_method_std", 0.02)),
        "activation": _activation(arguments),
    }
    for key in ("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size"):
        if arguments.get(key, section[key]) != section[key]:
            raise OctoError(
                f"its arguments say {key} {arguments[key]}, its tensors {section[key]}",
                where=directory / first.file,
            )
    try:
        model = ModelConfig.model_validate(section)
    except ValueError as error:
        raise OctoError(f"bad shape: {error}", where=directory) from None
    check_model(model, directory)
    return model


def _activation(arguments: Mapping[str, Any]) -> str:
    """Megatron-LM's fused bias + gelu is the tanh form, and so is openai_gelu; without either it is the exact one."""
    return "gelu_tanh" if arguments.get("bias_gelu_fusion", True) or arguments.get("openai_gelu") else "gelu"


def _check_tensors(directory: Path, ranks: list[list[_Rank]], listed: list[Part]) -> torch.dtype:
    """Names and shapes on every rank, and the one dtype."""
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
    model: ModelConfig, ranks: list[list[_Rank]], listed: list[Part], dtype: str
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


def _check_replicas(opened: Mapping[str, TensorFile], ranks: list[list[_Rank]], listed: list[Part]) -> None:
    """What several ranks hold is the same on all of them."""
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
