"""Dispatch of each operation by device: Triton's kernels on a GPU, their :mod:`.reference` elsewhere."""

from importlib import import_module
from typing import Any

from torch import Tensor

from megatron_octo.model.fused.kernels import reference


def _for(tensor: Tensor, kernels: str) -> Any:
    if not tensor.is_cuda:
        return reference
    # Not imported above: Triton comes with torch's CUDA builds alone.
    return import_module(f"megatron_octo.model.fused.kernels.{kernels}")


def add_norm_forward(residual_TH: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dispatch :func:`.reference.add_norm_forward`."""
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _for(residual_TH, "norm_kernels").add_norm_forward(
        residual_TH, *rest
    )
    return found


def add_norm_backward(d_summed_TH: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Dispatch :func:`.reference.add_norm_backward`."""
    found: tuple[Tensor, Tensor, Tensor] = _for(d_summed_TH, "norm_kernels").add_norm_backward(
        d_summed_TH, *rest
    )
    return found


def gelu_forward(x_TF: Tensor, exact: bool, measure: bool = False) -> Tensor:
    """Dispatch :func:`.reference.gelu_forward`."""
    found: Tensor = _for(x_TF, "gelu_kernels").gelu_forward(x_TF, exact, measure)
    return found


def gelu_backward(dy_TF: Tensor, x_TF: Tensor, exact: bool, measure: bool = False) -> tuple[Tensor, Tensor]:
    """Dispatch :func:`.reference.gelu_backward`."""
    found: tuple[Tensor, Tensor] = _for(dy_TF, "gelu_kernels").gelu_backward(dy_TF, x_TF, exact, measure)
    return found


def cross_entropy_forward(logits_TV: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Dispatch :func:`.reference.cross_entropy_forward`."""
    kernels = _for(logits_TV, "cross_entropy_kernels")
    found: tuple[Tensor, Tensor] = kernels.cross_entropy_forward(logits_TV, *rest)
    return found


def cross_entropy_backward_(logits_TV: Tensor, *rest: Any) -> None:
    """Dispatch :func:`.reference.cross_entropy_backward_`."""
    _for(logits_TV, "cross_entropy_kernels").cross_entropy_backward_(logits_TV, *rest)


def column_sums(x_MN: Tensor) -> Tensor:
    """Dispatch :func:`.reference.column_sums`."""
    found: Tensor = _for(x_MN, "column_sums").column_sums(x_MN)
    return found


def add_rows_(table_RH: Tensor, *rest: Any) -> None:
    """Dispatch :func:`.reference.add_rows_`."""
    _for(table_RH, "table_rows").add_rows_(table_RH, *rest)
