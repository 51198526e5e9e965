"""Writes weights of any format as a checkpoint of BigCode's fork of Megatron-LM."""

import shutil
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.source import Source
from megatron_octo.checkpoint.tensor_writer import Specs
from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.engine.block_copy import Box, Group, PlannedFile, PlannedTensor
from megatron_octo.conversion.engine.job import Progress, convert, silent
from megatron_octo.conversion.engine.rounding import Rounding
from megatron_octo.conversion.engine.torch_zip_sink import TorchZipSink
from megatron_octo.conversion.readers.bigcode_names import (
    FILES,
    TRUE_VOCABULARY,
    check_model,
    nest,
    padded_vocabulary,
    stage_tensors,
)
from megatron_octo.conversion.readers.formats import TRACKER

_DIRECTORY = "release"


def to_bigcode(
    source: Source,
    output: str | Path,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    dtype: str | None = None,
    progress: Progress = silent,
) -> Rounding:
    """Write ``output`` with ``latest_checkpointed_iteration.txt`` and ``release/mp_rank_XX[_YYY]``.

    Raises:
        OctoError: the fork has no such model, the layout does not divide it, or see
            :func:`megatron_octo.conversion.engine.job.convert`.
    """
    model = source.manifest.model
    check_model(model, source.directory)
    if model.num_layers % pipeline:
        raise OctoError(f"pipeline {pipeline} does not divide {model.num_layers} layers", where=source.directory)
    for name in ("num_attention_heads", "ffn_hidden_size"):
        if getattr(model, name) % tensor:
            raise OctoError(f"tensor {tensor} does not divide {name} {getattr(model, name)}", where=source.directory)
    target = DTYPES[dtype] if dtype else source.written_dtype(next(iter(source.manifest.tensors["weights"])))
    groups = [_group(model, stage, tensor, pipeline, target) for stage in range(pipeline)]
    arguments = _arguments(model, tensor, pipeline, target)

    def finish(directory: Path, _: Mapping[str, FileRecord]) -> None:
        (directory / TRACKER).write_text(_DIRECTORY)
        source.check_text()
        if source.tokenizer:
            shutil.copyfile(source.tokenizer, directory / "tokenizer.json")

    return convert(
        source,
        output,
        groups,
        partial(_open_sink, arguments),
        finish,
        options={"to": "bigcode", "arguments": {key: str(value) for key, value in arguments.items()}},
        progress=progress,
    )


def _group(model: ModelConfig, stage: int, tensor: int, pipeline: int, dtype: torch.dtype) -> Group:
    listed = [
        part
        for part in stage_tensors(model, padded_vocabulary(model.vocab_size, tensor), pipeline)
        if part.stage == stage
    ]
    files = []
    for rank in range(tensor):
        planned = []
        for part in listed:
            offset, shape = part.box(rank, tensor)
            columns = (offset[1], offset[1] + shape[1]) if len(shape) > 1 else (0, 1)
            box = Box(part.name, "weights", (offset[0], offset[0] + shape[0]), columns)
            planned.append(PlannedTensor(part.key, dtype, shape, (box,)))
        directory = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pipeline > 1 else "")
        files.append(PlannedFile(f"{_DIRECTORY}/{directory}/{FILES[0]}", tuple(planned)))
    return tuple(files)


def _arguments(model: ModelConfig, tensor: int, pipeline: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments that the fork compares when it loads."""
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "kv_channels": model.head_dim,
        "attention_head_type": "multiquery",
        "ffn_hidden_size": model.ffn_hidden_size,
        "max_position_embeddings": model.max_position_embeddings,
        "seq_length": model.max_position_embeddings,
        "make_vocab_size_divisible_by": 128,
        "padded_vocab_size": padded_vocabulary(model.vocab_size, tensor),
        TRUE_VOCABULARY: model.vocab_size,
        "layernorm_epsilon": model.layernorm_epsilon,
        "hidden_dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "init_method_std": model.init_std,
        "bias_gelu_fusion": model.activation == "gelu_tanh",  # fused it is the tanh form, alone the exact one
        "openai_gelu": False,
        "add_position_embedding": True,
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": pipeline,
        "params_dtype": dtype,
        "fp16": dtype == torch.float16,
        "bf16": dtype == torch.bfloat16,
        "iteration": 0,
        "consumed_train_samples": 0,
        "consumed_valid_samples": 0,
    }


def _open_sink(arguments: Mapping[str, Any], path: Path, specs: Specs) -> TorchZipSink:
    def tree(references: dict[str, Any]) -> dict[str, Any]:
        return {
            "args": Namespace(**arguments),
            "checkpoint_version": 3.0,
            "iteration": 0,
            "model": nest(references),
        }

    return TorchZipSink(path, specs, tree)
