"""How large a checkpoint is, before there is one. Pure arithmetic, no torch."""

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.recipe.schema import Recipe


def checkpoint_bytes(recipe: Recipe) -> int:
    """Bytes of a checkpoint that training can resume from: fp32 weights, which a bf16 run's are made of, two moments.

    A run of adapters (LoRA) saves adapters alone.
    """
    moments = 4 if recipe.optimizer.state_dtype == "bf16" else 8
    per_parameter = 4 + moments
    if recipe.lora:
        return per_parameter * count_adapter_parameters(recipe.model, recipe.lora)
    return per_parameter * count_parameters(recipe.model, padded=True)
