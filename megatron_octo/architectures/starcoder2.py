"""Starcoder2 (arXiv 2402.19173): rotary positions, grouped queries, a sliding window.

Hugging Face stores queries, keys and values separately, each with its heads in order; here they are fused per group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, override

from megatron_octo.architectures.base import (
    OUTPUT_LAYER,
    TANH_GELU,
    WORD_EMBEDDINGS,
    Architecture,
)
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.config.model import ModelConfig


class Starcoder2(Architecture):
    """Table of Starcoder2."""

    name = "starcoder2"
    hf_class = "Starcoder2ForCausalLM"
    models = "StarCoder2"
    description = LayerDescription(positions="rotary")
    activations = ("gelu_tanh",)
    top: ClassVar[Mapping[str, str]] = {
        WORD_EMBEDDINGS: "model.embed_tokens.weight",
        "decoder.final_layernorm.weight": "model.norm.weight",
        "decoder.final_layernorm.bias": "model.norm.bias",
        OUTPUT_LAYER: "lm_head.weight",
    }
    layer: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "input_layernorm": "model.layers.{}.input_layernorm",
        "self_attention.linear_qkv": tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
        "self_attention.linear_proj": "model.layers.{}.self_attn.o_proj",
        "pre_mlp_layernorm": "model.layers.{}.post_attention_layernorm",
        "mlp.linear_fc1": "model.layers.{}.mlp.c_fc",
        "mlp.linear_fc2": "model.layers.{}.mlp.c_proj",
    }
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "vocab_size": ("vocab_size", None),
        "max_position_embeddings": ("max_position_embeddings", None),
        "hidden_size": ("hidden_size", None),
        "num_layers": ("num_hidden_layers", None),
        "num_attention_heads": ("num_attention_heads", None),
        "num_query_groups": ("num_key_value_heads", None),
        "ffn_hidden_size": ("intermediate_size", None),
        "layernorm_epsilon": ("norm_epsilon", 1e-5),
        "hidden_dropout": ("residual_dropout", 0.0),
        "attention_dropout": ("attention_dropout", 0.0),
        "init_std": ("initializer_range", 0.018042),
    }
    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "hidden_act": TANH_GELU,
        "use_bias": (True,),
        "mlp_type": ("default",),  # these two are in the published files, transformers does not read them
        "norm_type": ("layer_norm",),
    }
    equal: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "embedding_dropout": ("residual_dropout", 0.0),
        "layer_norm_epsilon": ("norm_epsilon", None),  # in the published files; transformers reads the other
    }
    extra = frozenset(
        [
            "rope_parameters",
            "rope_scaling",
            "rope_theta",
            "partial_rotary_factor",
            "head_dim",
            "sliding_window",
        ]
    )
    harmless = frozenset(["attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "scale_attn_weights"])

    @override
    def write_extra(self, model: ModelConfig) -> dict[str, Any]:
        return {
            "embedding_dropout": model.hidden_dropout,
            "sliding_window": model.sliding_window,
            "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
            "rope_theta": model.rotary_base,  # where transformers looked before version 5
        }

    @override
    def read_extra(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        base = tree.get("rope_theta")
        both = [rope for rope in (tree.get("rope_parameters"), tree.get("rope_scaling")) if rope]
        if both[1:] and both[0] != both[1]:
            raise ValueError(f"rope_parameters {both[0]!r} and rope_scaling {both[1]!r} differ")
        for key in ("rope_parameters", "rope_scaling"):
            rope = tree.get(key) or {}
            if not isinstance(rope, Mapping):
                raise ValueError(f"{key} {rope!r} are not a mapping")
            kind = rope.get("rope_type", rope.get("type", "default"))
            if kind != "default":
                raise ValueError(f"rotary positions of type {kind!r} are not supported, only 'default'")
            if (rope.get("partial_rotary_factor") or tree.get("partial_rotary_factor") or 1.0) != 1.0:
                raise ValueError("partial_rotary_factor is not supported, only 1.0")
            if unknown := set(rope) - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}:
                raise ValueError(f"{key} has an unknown key {min(unknown)!r}")
            if rope and base not in (None, rope.get("rope_theta", base)):
                raise ValueError(f"rope_theta is {base!r} and, in {key}, {rope['rope_theta']!r}")
            base = rope.get("rope_theta", base)
        if not tree["num_attention_heads"]:
            raise ValueError("num_attention_heads is 0")
        head_dim = tree["hidden_size"] // tree["num_attention_heads"]
        if (tree.get("head_dim") or head_dim) != head_dim:
            raise ValueError(f"head_dim {tree['head_dim']} is not supported, only hidden size / heads, {head_dim}")
        return {
            "rotary_base": 10000.0 if base is None else float(base),
            "sliding_window": tree.get("sliding_window"),
        }
