"""GPTBigCode (SantaCoder, StarCoder): learned positions, one key and value for all query heads or one for each.

Hugging Face orders the fused rows the same way: [queries | key | value] for multi-query attention, and
[query | key | value] per head otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, override

from megatron_octo.architectures.base import (
    OUTPUT_LAYER,
    POSITION_EMBEDDINGS,
    TANH_GELU,
    WORD_EMBEDDINGS,
    Architecture,
)
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.config.model import ModelConfig

_HARMLESS = """
n_ctx inference_runner max_batch_size max_sequence_length pad_key_length pre_allocate_kv_cache validate_runner_input
summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
"""


class GPTBigCode(Architecture):
    """Table of GPTBigCode."""

    name = "gpt_bigcode"
    hf_class = "GPTBigCodeForCausalLM"
    models = "StarCoder, SantaCoder"
    description = LayerDescription()
    activations = ("gelu_tanh", "gelu")
    top: ClassVar[Mapping[str, str]] = {
        WORD_EMBEDDINGS: "transformer.wte.weight",
        POSITION_EMBEDDINGS: "transformer.wpe.weight",
        "decoder.final_layernorm.weight": "transformer.ln_f.weight",
        "decoder.final_layernorm.bias": "transformer.ln_f.bias",
        OUTPUT_LAYER: "lm_head.weight",
    }
    layer: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "input_layernorm": "transformer.h.{}.ln_1",
        "self_attention.linear_qkv": "transformer.h.{}.attn.c_attn",
        "self_attention.linear_proj": "transformer.h.{}.attn.c_proj",
        "pre_mlp_layernorm": "transformer.h.{}.ln_2",
        "mlp.linear_fc1": "transformer.h.{}.mlp.c_fc",
        "mlp.linear_fc2": "transformer.h.{}.mlp.c_proj",
    }
    fields: ClassVar[Mapping[str, tuple[str, Any]]] = {
        "vocab_size": ("vocab_size", None),
        "max_position_embeddings": ("n_positions", None),
        "hidden_size": ("n_embd", None),
        "num_layers": ("n_layer", None),
        "num_attention_heads": ("n_head", None),
        "layernorm_epsilon": ("layer_norm_epsilon", 1e-5),
        "hidden_dropout": ("resid_pdrop", 0.1),
        "attention_dropout": ("attn_pdrop", 0.1),
        "init_std": ("initializer_range", 0.02),
    }
    fixed: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "scale_attn_weights": (True,),
        "attention_softmax_in_fp32": (True, False),  # a choice of precision, not of the function
        "scale_attention_softmax_in_fp32": (True, False),
        "add_cross_attention": (False,),
    }
    equal: ClassVar[Mapping[str, tuple[str, Any]]] = {"embd_pdrop": ("resid_pdrop", 0.1)}
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    extra = frozenset({"n_inner", "multi_query", "activation_function", "num_key_value_heads"})
    harmless = frozenset(_HARMLESS.split())
    ignored = r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, as older versions saved it

    @override
    def check(self, model: ModelConfig) -> None:
        super().check(model)
        if model.sliding_window is not None:
            raise ValueError("gpt_bigcode has full attention: model.sliding_window must be null")
        if model.num_query_groups not in (1, model.num_attention_heads):
            raise ValueError(
                f"gpt_bigcode has one key/value head, or one for each of the {model.num_attention_heads} heads: "
                f"model.num_query_groups {model.num_query_groups} is neither"
            )

    @override
    def write_extra(self, model: ModelConfig) -> dict[str, Any]:
        return {
            "n_inner": model.ffn_hidden_size,
            "embd_pdrop": model.hidden_dropout,
            "multi_query": model.num_query_groups == 1,
            "activation_function": "gelu" if model.activation == "gelu" else TANH_GELU[0],
        }

    @override
    def read_extra(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        function = tree.get("activation_function", TANH_GELU[0])
        if function not in ("gelu", *TANH_GELU):
            raise ValueError(f"activation_function {function!r} is not supported, only {['gelu', *TANH_GELU]}")
        groups = 1 if tree.get("multi_query", True) else tree["n_head"]
        if tree.get("num_key_value_heads", groups) != groups:
            raise ValueError(f"num_key_value_heads {tree['num_key_value_heads']!r}, multi_query says {groups}")
        return {
            # SantaCoder has the approximation, StarCoder the exact function.
            "activation": "gelu" if function == "gelu" else "gelu_tanh",
            "ffn_hidden_size": tree.get("n_inner") or 4 * tree["n_embd"],
            "num_query_groups": groups,
        }
