"""Builds the network on megatron-core."""

from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.transformer.enums import AttnBackend
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_octo.architectures import describe_layer
from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.attention.backend import Backend
from megatron_octo.model.attention.rotary import Rotary
from megatron_octo.model.lora import attach_adapters, separate_norms
from megatron_octo.model.platform.grid import Grid

_NORMS = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}
_ACTIVATIONS = {"gelu": F.gelu, "gelu_tanh": partial(F.gelu, approximate="tanh"), "silu": F.silu}
_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "mlp": {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}


def _norm(config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:
    """Build torch's norm, marked so that megatron-core sums its gradients under sequence parallelism."""
    kind = torch.nn.RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
    norm = kind(hidden_size, eps=eps)
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
    return norm


def transformer_config(
    model: ModelConfig, compute: Compute, backend: Backend, device: torch.device
) -> TransformerConfig:
    """Return megatron-core's configuration of a model.

    Raises:
        OctoError: fp8 with an attention that megatron-core's layers do not combine with it.
    """
    layout, gpu = compute.layout, device.type == "cuda"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        ffn_hidden_size=model.ffn_hidden_size,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        sequence_parallel=layout.sequence,
        params_dtype=DTYPES[compute.precision],
        pipeline_dtype=DTYPES[compute.precision],
        bf16=compute.precision == "bf16",
        kv_channels=model.head_dim,
        layernorm_epsilon=model.layernorm_epsilon,
        bias_dropout_fusion=gpu,
        hidden_dropout=model.hidden_dropout,
        attention_dropout=model.attention_dropout,
        attention_softmax_in_fp32=True,
        window_size=(model.sliding_window - 1, 0) if model.sliding_window else None,  # tokens before and after
        apply_rope_fusion=model.rotary_base is not None and backend.transformer_engine,
        masked_softmax_fusion=False,
        attention_backend=AttnBackend.fused,
        gradient_accumulation_fusion=False,
        persist_layer_norm=gpu and backend.transformer_engine,
        perform_initialization=False,  # weights.py does it
        use_cpu_initialization=not gpu,
        deterministic_mode=compute.deterministic,
        # The loss is divided by the weight of the whole global batch before backward; nothing else may scale it.
        calculate_per_token_loss=True,
        **_layer_kinds(model, gpu),
        **_RECOMPUTE[compute.recompute],
        **_fp8(compute, backend),
    )


def _layer_kinds(model: ModelConfig, gpu: bool) -> dict[str, Any]:
    """Return the options that follow from the description of the model's layers."""
    kinds = describe_layer(model)
    gated = kinds.mlp == "gated"
    # Megatron-core fuses a plain gelu together with its bias, and what a gate multiplies with or without one.
    fused = gpu and model.activation != "gelu" and (gated or kinds.linear_bias)
    # Its fused functions compute the tanh form under the name of the exact one.
    activation = "gelu" if fused and model.activation == "gelu_tanh" else model.activation
    return {
        "normalization": _NORMS[kinds.norm],
        "add_bias_linear": kinds.linear_bias,
        "add_qkv_bias": kinds.qkv_bias,
        "gated_linear_unit": gated,
        "activation_func": _ACTIVATIONS[activation],
        "bias_activation_fusion": fused,
    }


def _fp8(compute: Compute, backend: Backend) -> dict[str, Any]:
    if compute.fp8 == "none" or compute.fused:  # the fused layers have an arithmetic of their own
        return {}
    if not backend.transformer_engine:
        raise OctoError(
            f"megatron-core's layers have fp8 with Transformer Engine's attention alone, this run has: {backend}",
            where="train.fp8",
            hint="use none, or system.attention=te",
        )
    # Nothing is remembered from step to step, so that a resumed run is the same.
    return {"fp8": "hybrid", "fp8_recipe": "tensorwise"}


def build_model(model: ModelConfig, compute: Compute, grid: Grid, backend: Backend) -> GPTModel:
    """Build this rank's part of the network on megatron-core's layers, on its device, not yet initialised."""
    config = transformer_config(model, compute, backend, grid.device)
    if backend.transformer_engine:
        spec = get_gpt_layer_with_transformer_engine_spec()
        if compute.lora:
            separate_norms(spec)
    else:
        assert backend.core_attention is not None
        layer = get_gpt_layer_local_spec()
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = _norm
        layer.submodules.self_attention.submodules.core_attention = partial(
            backend.core_attention, rotary=_rotary(model)
        )
        spec = TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=_norm)
    network = GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_position_embeddings,
        pre_process=grid.is_first_stage,
        post_process=grid.is_last_stage,
        parallel_output=True,
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type=_positions(model, backend),
        rotary_base=model.rotary_base,
    )
    if compute.recompute == "mlp":
        for block in network.decoder.layers:
            block.mlp.register_forward_hook(_fresh_bias)
    if compute.lora:
        attach_adapters(network, model, compute, grid)
    return network.to(grid.device)


def _positions(model: ModelConfig, backend: Backend) -> Literal["learned_absolute", "rope", "none"]:
    if model.rotary_base is None:
        return "learned_absolute"
    return "rope" if backend.transformer_engine else "none"  # the attention back end rotates queries and keys


def _rotary(model: ModelConfig) -> Rotary | None:
    if model.rotary_base is None:
        return None
    return Rotary(model.rotary_base, model.head_dim, model.max_position_embeddings)


def _fresh_bias(
    module: torch.nn.Module, inputs: Any, output: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    # The MLP returns its bias parameter, not yet added. Returned from a recomputed function, the parameter itself would
    # get that function as its gradient node, and megatron-core's backward would recompute itself forever.
    return output[0], output[1].clone() if output[1] is not None else None


def valid_vocabulary(model: ModelConfig, grid: Grid) -> int:
    """Count the output columns of this tensor rank that are real tokens; the others are padding."""
    part = model.padded_vocab_size // grid.layout.tensor
    return max(0, min(part, model.vocab_size - grid.tensor_rank * part))
