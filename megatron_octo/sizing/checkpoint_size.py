"""How large a checkpoint is, before there is one. Pure arithmetic, no torch."""

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.config.optimizer_state import state_bytes
from megatron_octo.recipe.schema import Recipe


def checkpoint_bytes(recipe: Recipe) -> int:
    """Return the bytes of a checkpoint that training can resume from: fp32 weights and the optimizer's state.

    A run of adapters (LoRA) saves adapters alone.
    """
    per_parameter = 4 + state_bytes(recipe.optimizer)
    if recipe.lora:
        return per_parameter * count_adapter_parameters(recipe.model, recipe.lora)
    return per_parameter * count_parameters(recipe.model, padded=True)
