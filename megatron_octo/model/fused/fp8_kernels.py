"""Triton kernels that round gelu, or its gradient, to fp8 without storing it before: it is computed twice, for its
largest number and to be rounded.

T tokens, F hidden size of the MLP. A tensor is multiplied so that its largest number is the type's largest, and stored
as it is and transposed, which is what Hopper multiplies in the backward pass.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_octo.model.fused.kernels import gelu_gate, gelu_slope

_MEASURE_TILE = (4, 512, 32)  # rows, columns and steps of a program that looks for the largest number
_ROUND_TILE = (32, 128)  # pairs of rows, and columns, of one that rounds


@dataclass(frozen=True)
class Rounded:
    """Attributes: the bytes [T, F] and [F, T] of E4M3 or E5M2; what to multiply them by, fp32 [1]."""

    data: Tensor
    transposed: Tensor
    inverse: Tensor


@triton.jit
def _value(d, x, at, inside, GRADIENT: tl.constexpr, EXACT: tl.constexpr):  # type: ignore[no-untyped-def]
    before = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if GRADIENT:
        return tl.load(d + at, mask=inside, other=0.0).to(tl.float32) * gelu_slope(before, EXACT)
    return before * gelu_gate(before, EXACT)


@triton.jit
def _gelu_measure(  # type: ignore[no-untyped-def]
    d, x, largest, partial, rows, width,
    GRADIENT: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    highest = tl.zeros([ROWS, COLUMNS], tl.float32)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * width + column[None, :]
        inside = (row[:, None] < rows) & (column[None, :] < width)
        value = _value(d, x, at, inside, GRADIENT, EXACT)
        # A maximum passes over nan. Infinity in its place makes all numbers infinite or nan.
        highest = tl.maximum(highest, tl.where(value == value, tl.abs(value), float("inf")))
        if GRADIENT:
            sums += tl.where(inside, value, 0.0)
    tl.store(
        largest + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.max(tl.max(highest, 1), 0)
    )
    if GRADIENT:
        at = tl.program_id(0).to(tl.int64) * width + column
        tl.store(partial + at, tl.sum(sums, 0), mask=column < width)


@triton.jit
def _bytes(d, x, at, inside, scale, limit, GRADIENT: tl.constexpr, EXACT: tl.constexpr):  # type: ignore[no-untyped-def]
    value = tl.clamp(_value(d, x, at, inside, GRADIENT, EXACT) * scale, -limit, limit)
    if GRADIENT:
        return value.to(tl.float8e5).to(tl.uint8, bitcast=True)
    return value.to(tl.float8e4nv).to(tl.uint8, bitcast=True)


@triton.jit
def _gelu_round(  # type: ignore[no-untyped-def]
    d, x, largest, data, transposed, inverse, pairs, width,
    GRADIENT: tl.constexpr, EXACT: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # Two rows at a time, whose bytes lie side by side in the transposed matrix: it is written in pairs. (Triton 3.6
    # transposes single bytes wrongly.)
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (pair[:, None] < pairs) & (column[None, :] < width)
    limit = 57344.0 if GRADIENT else 448.0
    bound = tl.load(largest)
    scale = tl.where(bound > 0, tl.minimum(limit / bound, 3.0e38), 1.0)
    at = 2 * pair[:, None].to(tl.int64) * width + column[None, :]
    first = _bytes(d, x, at, inside, scale, limit, GRADIENT, EXACT)
    second = _bytes(d, x, at + width, inside, scale, limit, GRADIENT, EXACT)
    tl.store(data + at, first, mask=inside)
    tl.store(data + at + width, second, mask=inside)
    both = first.to(tl.uint16) | (second.to(tl.uint16) << 8)
    across = column[:, None].to(tl.int64) * pairs + pair[None, :]
    tl.store(transposed + across, tl.trans(both), mask=(column[:, None] < width) & (pair[None, :] < pairs))
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, 1.0 / scale)


def _rounded(d_TF: Tensor | None, x_TF: Tensor, exact: bool) -> tuple[Rounded, Tensor]:
    rows, width = x_TF.shape
    assert rows % 2 == 0  # fp8 products take multiples of 16
    gradient = d_TF is not None
    height, columns, steps = _MEASURE_TILE
    grid = (triton.cdiv(rows, height * steps), triton.cdiv(width, columns))
    largest = x_TF.new_empty(grid, dtype=torch.float32)
    partial = x_TF.new_empty((grid[0], width) if gradient else (1, 0), dtype=torch.float32)
    _gelu_measure[grid](
        d_TF, x_TF, largest, partial, rows, width,
        GRADIENT=gradient, EXACT=exact, ROWS=height, COLUMNS=columns, STEPS=steps, num_warps=8,
    )  # fmt: skip
    found = Rounded(
        x_TF.new_empty((rows, width), dtype=torch.uint8),
        x_TF.new_empty((width, rows), dtype=torch.uint8),
        x_TF.new_empty(1, dtype=torch.float32),
    )
    height, columns = _ROUND_TILE
    _gelu_round[(triton.cdiv(rows // 2, height), triton.cdiv(width, columns))](
        d_TF, x_TF, largest.amax(), found.data, found.transposed.view(torch.uint16), found.inverse, rows // 2, width,
        GRADIENT=gradient, EXACT=exact, PAIRS=height, COLUMNS=columns, num_warps=8,
    )  # fmt: skip
    return found, partial


def gelu(x_TF: Tensor, exact: bool) -> Rounded:
    """Gelu in E4M3."""
    return _rounded(None, x_TF, exact)[0]


def gelu_gradient(d_TF: Tensor, x_TF: Tensor, exact: bool) -> tuple[Rounded, Tensor]:
    """Gelu's gradient in E5M2, and its sum over the tokens before it is rounded, fp32 [F]."""
    found, partial = _rounded(d_TF, x_TF, exact)
    return found, partial.sum(0)
