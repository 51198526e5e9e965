"""Each operation on the device at hand: Triton's kernels on a GPU, their reference elsewhere."""

from importlib import import_module
from typing import Any

from torch import Tensor

from megatron_octo.model.fused.kernels import reference


def _for(tensor: Tensor, kernels: str = "norm_kernels") -> Any:
    if not tensor.is_cuda:
        return reference
    return import_module(
        f"megatron_octo.model.fused.kernels.{kernels}"
    )  # Triton comes with torch's CUDA builds


def add_norm_forward(residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _for(residual).add_norm_forward(residual, *rest)
    return found


def add_norm_backward(d_summed: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _for(d_summed).add_norm_backward(d_summed, *rest)
    return found


def gelu_forward(x: Tensor, exact: bool, measure: bool = False) -> Tensor:
    found: Tensor = _for(x, "gelu_kernels").gelu_forward(x, exact, measure)
    return found


def gelu_backward(dy: Tensor, x: Tensor, exact: bool, measure: bool = False) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _for(dy, "gelu_kernels").gelu_backward(dy, x, exact, measure)
    return found


def cross_entropy_forward(logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = _for(logits).cross_entropy_forward(logits, *rest)
    return found


def cross_entropy_backward_(logits: Tensor, *rest: Any) -> None:
    _for(logits).cross_entropy_backward_(logits, *rest)


def column_sums(x: Tensor) -> Tensor:
    found: Tensor = _for(x, "column_sums").column_sums(x)
    return found


def add_rows_(table: Tensor, *rest: Any) -> None:
    _for(table, "table_rows").add_rows_(table, *rest)
