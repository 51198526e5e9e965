"""State that an optimizer keeps beside each trained parameter: what checkpoints store and memory estimates count."""

from dataclasses import dataclass

from megatron_octo.config.compute import Precision

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class StateKind:
    """One tensor of state per trained parameter.

    Attributes:
        name: in checkpoints, and in the optimizer's own state.
        dtype: on the device and in checkpoints.
    """

    name: str
    dtype: Precision

    def elements(self, parameter: int) -> int:
        """Number of elements beside ``parameter`` elements of a weight: each has its own, and they are cut alike."""
        return parameter


def state_kinds(dtype: Precision) -> tuple[StateKind, ...]:
    """Return the kinds of AdamW with state in ``dtype``, in the order of checkpoint files, without fp32 weights."""
    return StateKind("exp_avg", dtype), StateKind("exp_avg_sq", dtype)


def state_bytes(dtype: Precision, parameters: int = 1) -> int:
    """Return the bytes of state beside a number of trained parameters."""
    return sum(_BYTES[kind.dtype] * kind.elements(parameters) for kind in state_kinds(dtype))
