"""Gradients of the fused layers' parameters go directly into data parallelism's buffer (``main_grad``).

A weight matrix's first gradient of a step overwrites the buffer, so that part of the buffer is never zeroed, which
saves writing and reading it once per step: 8 bytes per parameter in fp32.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_octo.model.fused.kernels import ops


def give_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Add finished gradients (fp32) to their parameters' ``main_grad``; return the placeholders for autograd."""
    mains: list[Any] = [getattr(parameter, "main_grad", None) for parameter in parameters]
    if any(main is None for main in mains):
        return [gradient.to(parameter.dtype) for parameter, gradient in zip(parameters, gradients)]
    sums: list[Any] = list(gradients)
    torch._foreach_add_(mains, sums)
    return [given(parameter) for parameter in parameters]


def give_row_gradients(table: Tensor, rows_T: Tensor, d_TH: Tensor) -> Tensor:
    """Add gradients ``d_TH`` to rows ``rows_T`` of the table's gradient; return the placeholder for autograd.

    Raises:
        RuntimeError: Another use of the table, which writes its gradient first (:func:`write_first`), is still to come.
    """
    if getattr(table, "gradient_is_stale", False):
        raise RuntimeError("rows would be added to the gradient of the step before")
    main = getattr(table, "main_grad", None)
    total = torch.zeros_like(table) if main is None else main
    ops.add_rows_(total, rows_T, d_TH)
    return total if main is None else given(table)


def given(parameter: Any) -> Tensor:
    """Tell megatron-core that a parameter's gradient is in ``main_grad``; return the placeholder for autograd."""
    parameter.grad_added_to_main_grad = True
    return torch.empty_like(parameter)


def write_first(weights: Iterable[Tensor]) -> None:
    """Declare weights whose gradient comes from ``Arithmetic.give_weight_gradient`` in every micro-batch."""
    for weight in weights:
        weight.gradient_is_stale = False  # type: ignore[attr-defined]


def accumulates(weight: Any) -> bool:
    """Return whether the next gradient is added to the buffer rather than overwriting it. Call once per gradient."""
    stale: bool = getattr(weight, "gradient_is_stale", False)
    if stale:
        weight.gradient_is_stale = False
    return not stale


def spare_zeroing(model: Any) -> None:
    """Make ``zero_grad_buffer`` of megatron-core's DistributedDataParallel skip gradients that are overwritten."""
    for buffer in model.buffers:
        buffer.reset = partial(_reset, buffer)


@torch.no_grad()
def _reset(buffer: Any) -> None:
    zeroed = list(buffer.extra_main_grads)
    for parameter in buffer.params:
        if hasattr(parameter, "gradient_is_stale"):
            parameter.gradient_is_stale = True
        else:
            zeroed.append(parameter.main_grad)
    torch._foreach_zero_(zeroed)
