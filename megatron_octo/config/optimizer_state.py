"""State that an optimizer keeps beside each trained parameter: what checkpoints store and memory estimates count."""

from dataclasses import dataclass
from typing import Literal

from megatron_octo.config.sections import OptimizerConfig

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class StateKind:
    """One tensor of state per trained parameter.

    Attributes:
        name: in checkpoints, and in the optimizer's own state.
        dtype: on the device and in checkpoints.
    """

    name: str
    dtype: Literal["fp32", "bf16"]

    def elements(self, parameter: int) -> int:
        """Number of elements beside ``parameter`` elements of a weight: each has its own, and they are cut alike."""
        return parameter


def state_kinds(options: OptimizerConfig) -> tuple[StateKind, ...]:
    """State of the optimizer of a recipe, in the order of checkpoint files; fp32 weights are not among it."""
    return StateKind("exp_avg", options.state_dtype), StateKind("exp_avg_sq", options.state_dtype)


def state_bytes(options: OptimizerConfig, parameters: int = 1) -> int:
    """Bytes of state beside a number of trained parameters."""
    return sum(_BYTES[kind.dtype] * kind.elements(parameters) for kind in state_kinds(options))
