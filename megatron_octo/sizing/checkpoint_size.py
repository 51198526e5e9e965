"""Size of a checkpoint, computed before it exists."""

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.config.optimizer_state import state_bytes


def checkpoint_bytes(model: ModelConfig, compute: Compute) -> int:
    """Return the bytes of a resumable checkpoint: fp32 weights and the optimizer's state of all that is trained."""
    per_parameter = 4 + state_bytes(compute.state_dtype)
    if compute.lora:
        return per_parameter * count_adapter_parameters(model, compute.lora)
    return per_parameter * count_parameters(model, padded=True)
