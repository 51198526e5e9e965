"""Architectures that only tests have: GPTBigCode with other kinds of parts, and Llama."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from unittest import mock

import megatron_octo.architectures as package
from megatron_octo.architectures.base import OUTPUT_LAYER, WORD_EMBEDDINGS, Architecture
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.architectures.gpt_bigcode import GPTBigCode
from megatron_octo.config.model import ModelConfig


class RmsGPT(GPTBigCode):
    """GPTBigCode with RMSNorm."""

    name = "rms_gpt"
    description = LayerDescription(norm="rms_norm")


class GatedGPT(GPTBigCode):
    """GPTBigCode with SwiGLU, its biases included."""

    name = "gated_gpt"
    description = LayerDescription(mlp="gated")
    activations = ("silu",)


class LlamaLike(Architecture):
    """Llama: RMSNorm, SwiGLU, rotary positions, grouped queries, no bias anywhere."""

    name = "llama"
    hf_class = "LlamaForCausalLM"
    models = "Llama"
    description = LayerDescription("rms_norm", "gated", "rotary", qkv_bias=False, linear_bias=False)
    activations = ("silu",)
    top: ClassVar[Mapping[str, str]] = {
        WORD_EMBEDDINGS: "model.embed_tokens.weight",
        "decoder.final_layernorm.weight": "model.norm.weight",
        OUTPUT_LAYER: "lm_head.weight",
    }
    layer: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "input_layernorm": "model.layers.{}.input_layernorm",
        "self_attention.linear_qkv": tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv"),
        "self_attention.linear_proj": "model.layers.{}.self_attn.o_proj",
        "pre_mlp_layernorm": "model.layers.{}.post_attention_layernorm",
        "mlp.linear_fc1": ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
        "mlp.linear_fc2": "model.layers.{}.mlp.down_proj",
    }
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "vocab_size": ("vocab_size", None),
        "max_position_embeddings": ("max_position_embeddings", None),
        "hidden_size": ("hidden_size", None),
        "num_layers": ("num_hidden_layers", None),
        "num_attention_heads": ("num_attention_heads", None),
        "num_query_groups": ("num_key_value_heads", None),
        "ffn_hidden_size": ("intermediate_size", None),
        "layernorm_epsilon": ("rms_norm_eps", 1e-6),
        "attention_dropout": ("attention_dropout", 0.0),
        "init_std": ("initializer_range", 0.02),
    }
    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "pretraining_tp": (1,),
    }
    extra = frozenset({"rope_parameters", "head_dim"})

    def write_extra(self, model: ModelConfig) -> dict[str, Any]:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base}}

    def read_extra(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        return {"rotary_base": float(tree["rope_parameters"]["rope_theta"]), "activation": "silu"}


VARIANTS: dict[str, dict[str, Any]] = {
    "rms_gpt": {"architecture": "rms_gpt"},
    "gated_gpt": {"architecture": "gated_gpt", "activation": "silu"},
    "llama": {
        "architecture": "llama",
        "activation": "silu",
        "rotary_base": 1e4,
        "num_query_groups": 2,
        "tied_embeddings": False,
    },
}


@contextmanager
def known() -> Iterator[None]:
    """Inside, these architectures are the library's, also in processes that are forked."""
    with mock.patch.object(package, "_KNOWN", (*package._KNOWN, RmsGPT(), GatedGPT(), LlamaLike())):
        yield
