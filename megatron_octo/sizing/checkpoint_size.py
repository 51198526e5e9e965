"""How large a checkpoint is, before there is one. Pure arithmetic, no torch."""

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig


def checkpoint_bytes(model: ModelConfig, compute: Compute) -> int:
    """Bytes of a checkpoint that training can resume from: fp32 weights, which a bf16 run's are made of, two moments.

    A run of adapters (LoRA) saves adapters alone.
    """
    moments = 4 if compute.state_dtype == "bf16" else 8
    per_parameter = 4 + moments
    if compute.lora:
        return per_parameter * count_adapter_parameters(model, compute.lora)
    return per_parameter * count_parameters(model, padded=True)
