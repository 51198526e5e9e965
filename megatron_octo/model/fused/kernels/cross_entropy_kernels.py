"""Triton kernels of the cross entropy of each token. ``torch_reference`` computes the same in plain torch.

T tokens, V columns of the vocabulary on this tensor rank. Everything is computed in fp32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 4096  # of the vocabulary at a time


@triton.jit
def _cross_entropy_forward(  # type: ignore[no-untyped-def]
    logits, labels, log_sum, target, width, valid, first, STEPS: tl.constexpr, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row) - first
    highest = float("-inf")
    total = 0.0
    for step in range(STEPS):
        column = step * COLUMNS + tl.arange(0, COLUMNS)
        x = tl.load(logits + row * width + column, mask=column < valid, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(x, 0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(x - higher), 0)
        highest = higher
    tl.store(log_sum + row, highest + tl.log(total))
    mine = (label >= 0) & (label < valid)
    found = tl.load(logits + row * width + label, mask=mine, other=0.0).to(tl.float32)
    tl.store(target + row, found)


@triton.jit
def _cross_entropy_backward(  # type: ignore[no-untyped-def]
    logits, labels, log_sum, d_losses, width, valid, first, COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = logits + row * width + column
    scale = tl.load(d_losses + row)
    gradient = tl.zeros([COLUMNS], tl.float32)
    if scale != 0.0:  # the loss leaves out context tokens and padding: nothing to read
        x = tl.load(at, mask=column < valid, other=float("-inf")).to(tl.float32)
        gradient = tl.exp(x - tl.load(log_sum + row))
        gradient = (gradient - tl.where(column == tl.load(labels + row) - first, 1.0, 0.0)) * scale
    tl.store(at, tl.where(column < valid, gradient, 0.0), mask=column < width)


def cross_entropy_forward(logits_TV: Tensor, labels_T: Tensor, valid: int, first: int) -> tuple[Tensor, Tensor]:
    """Compute :func:`.torch_reference.cross_entropy_forward`."""
    rows, width = logits_TV.shape
    log_sum, target = logits_TV.new_empty((2, rows), dtype=torch.float32)
    _cross_entropy_forward[(rows,)](
        logits_TV,
        labels_T,
        log_sum,
        target,
        width,
        valid,
        first,
        STEPS=triton.cdiv(valid, _COLUMNS),
        COLUMNS=_COLUMNS,
        num_warps=8,
    )
    return log_sum, target


def cross_entropy_backward_(
    logits_TV: Tensor, labels_T: Tensor, log_sum_T: Tensor, d_losses_T: Tensor, valid: int, first: int
) -> None:
    """Compute :func:`.torch_reference.cross_entropy_backward_`: the gradient overwrites the logits."""
    rows, width = logits_TV.shape
    _cross_entropy_backward[(rows, triton.cdiv(width, _COLUMNS))](
        logits_TV, labels_T, log_sum_T, d_losses_T, width, valid, first, COLUMNS=_COLUMNS, num_warps=8
    )
