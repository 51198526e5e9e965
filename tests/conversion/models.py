"""Small random models in Hugging Face's format, and a BigCode checkpoint written from its description alone."""

import enum
import json
import sys
import types
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from megatron_octo.architectures import find_architecture
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint

Tensors = dict[str, torch.Tensor]


def small_model(**changes: Any) -> ModelConfig:
    """Eight heads, so that eight ranks can share them."""
    sizes: dict[str, Any] = {
        "num_layers": 4,
        "hidden_size": 32,
        "num_attention_heads": 8,
        "ffn_hidden_size": 64,
        "max_position_embeddings": 24,
        "vocab_size": 1001,
    }
    return ModelConfig(**{**sizes, **changes})


def write_hf(
    directory: Path, model: ModelConfig, dtype: torch.dtype = torch.float32, seed: int = 0, shards: int = 1
) -> Tensors:
    """Write a model with random values of scale 0.2; returns its tensors."""
    generator = torch.Generator().manual_seed(seed)
    table = find_architecture(model.architecture)
    tensors = {
        name: (0.2 * torch.randn(tensor.shape, generator=generator)).to(dtype)
        for name, tensor in table.hf_tensors(model).items()
    }
    directory.mkdir(parents=True)
    config = table.hf_config(model, 0, str(dtype).removeprefix("torch."))
    (directory / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return tensors
    weight_map = {}
    for number in range(shards):
        names = list(tensors)[number::shards]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names}, directory / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tensors


def from_hf(source: Path, output: Path, **options: Any) -> ModelConfig:
    """What ``convert from-hf`` does; returns the model's shape."""
    opened = open_weights(source, stream=True, expected="huggingface")
    write_checkpoint(opened, output, **options)
    return opened.manifest.model


def legacy_state(hf: Tensors, layers: int, tensor: int, pipeline: int, rank: int, stage: int) -> Tensors:
    """``model`` of one rank with dotted keys: the layout as BigCode's fork cuts it, written down a second time."""

    def part(whole: torch.Tensor, axis: int) -> torch.Tensor:
        return whole.chunk(tensor, axis)[rank].clone()

    hidden = hf["transformer.wte.weight"].shape[1]
    words = hf["transformer.wte.weight"]
    padding = -words.shape[0] % (128 * tensor)
    words = torch.cat([words, words[-1:].expand(padding, hidden)])  # the fork repeats the last row
    state: Tensors = {}
    if stage == 0:
        state["language_model.embedding.word_embeddings.weight"] = part(words, 0)
        state["language_model.embedding.position_embeddings.weight"] = hf["transformer.wpe.weight"]
    for local in range(layers // pipeline):
        theirs = f"transformer.h.{stage * (layers // pipeline) + local}."
        ours = f"language_model.encoder.layers.{local}."
        for kind in ("weight", "bias"):
            qkv = hf[f"{theirs}attn.c_attn.{kind}"]
            state[f"{ours}input_layernorm.{kind}"] = hf[f"{theirs}ln_1.{kind}"]
            state[f"{ours}self_attention.query.{kind}"] = part(qkv[:hidden], 0)
            state[f"{ours}self_attention.key_value.{kind}"] = qkv[hidden:].clone()  # the key comes first
            state[f"{ours}post_attention_layernorm.{kind}"] = hf[f"{theirs}ln_2.{kind}"]
            state[f"{ours}mlp.dense_h_to_4h.{kind}"] = part(hf[f"{theirs}mlp.c_fc.{kind}"], 0)
        state[f"{ours}self_attention.dense.weight"] = part(hf[f"{theirs}attn.c_proj.weight"], 1)
        state[f"{ours}self_attention.dense.bias"] = hf[f"{theirs}attn.c_proj.bias"]
        state[f"{ours}mlp.dense_4h_to_h.weight"] = part(hf[f"{theirs}mlp.c_proj.weight"], 1)
        state[f"{ours}mlp.dense_4h_to_h.bias"] = hf[f"{theirs}mlp.c_proj.bias"]
    if stage == pipeline - 1:
        for kind in ("weight", "bias"):
            state[f"language_model.encoder.final_layernorm.{kind}"] = hf[f"transformer.ln_f.{kind}"]
        if pipeline > 1:
            state["word_embeddings_for_head.weight"] = part(words, 0)
    return state


def _nested(state: Tensors) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in state.items():
        encoder = "language_model.encoder."
        path = ["language_model", "encoder", key.removeprefix(encoder)] if key.startswith(encoder) else key.split(".")
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def megatron_enum() -> Any:
    """A value of an enumeration whose module only the fork has."""
    module = types.ModuleType("megatron.model.enums")
    kind = enum.Enum("PositionEmbeddingType", ["rotary", "absolute"], module="megatron.model.enums")
    module.PositionEmbeddingType = kind  # type: ignore[attr-defined]
    sys.modules["megatron.model.enums"] = module
    return kind["absolute"]


def write_legacy(
    directory: Path,
    hf: Tensors,
    layers: int,
    tensor: int,
    pipeline: int,
    extra: Any = None,
    **arguments: Any,
) -> None:
    """A checkpoint as the fork leaves it: arguments, random states and optimizer beside the weights."""
    directory.mkdir(parents=True)
    (directory / "latest_checkpointed_iteration.txt").write_text("600")
    position = megatron_enum()
    try:
        for rank in range(tensor):
            for stage in range(pipeline):
                name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pipeline > 1 else "")
                place = directory / "iter_0000600" / name
                place.mkdir(parents=True)
                state = legacy_state(hf, layers, tensor, pipeline, rank, stage)
                tree = {
                    "args": Namespace(
                        num_layers=layers,
                        layernorm_epsilon=1e-5,
                        init_method_std=0.01275,
                        position_embedding_type=position,
                        params_dtype=torch.float32,
                        **arguments,
                    ),
                    "checkpoint_version": 3.0,
                    "iteration": 600,
                    "model": _nested(state),
                    "optimizer": {"exp_avg": torch.zeros(100), "step": 600},
                    "rng_state": [{"np_rng_state": np.random.get_state(), "torch": torch.get_rng_state()}],
                }
                if extra is not None:
                    tree["extra"] = extra
                torch.save(tree, place / "model_optim_rng.pt")
    finally:
        del sys.modules["megatron.model.enums"]
