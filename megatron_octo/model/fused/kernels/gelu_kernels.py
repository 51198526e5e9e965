"""Triton kernels of gelu and of fp8's scales. ``torch_reference`` computes gelu in plain torch.

T tokens, F hidden size of the MLP, P parts of a tensor. Everything is computed in fp32 and rounded once, when it is
stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_octo.model.fused.kernels.amax import note
from megatron_octo.model.fused.kernels.column_sums import column_sums

_BLOCK = 4096


@triton.jit
def _gelu_gate(x, EXACT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute gelu's factor of x: the normal distribution function, or GPT's approximation of it, as a sigmoid."""
    if EXACT:
        return 0.5 + 0.5 * tl.erf(0.7071067811865476 * x)
    return tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _gelu_forward(  # type: ignore[no-untyped-def]
    x, y, largest, count, EXACT: tl.constexpr, STORE: tl.constexpr, MEASURE: tl.constexpr, BLOCK: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    value = (value * _gelu_gate(value, EXACT)).to(x.dtype.element_ty)
    if STORE:
        tl.store(y + at, value, mask=inside)
    if MEASURE:
        tl.store(largest + tl.program_id(0), tl.max(tl.abs(value.to(tl.float32)), 0))


@triton.jit
def _gelu_backward(  # type: ignore[no-untyped-def]
    dy, x, dx, partial, largest, rows, width,
    EXACT: tl.constexpr, MEASURE: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    highest = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(STEPS):
        row = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        at = row[:, None].to(tl.int64) * width + column[None, :]
        inside = (row[:, None] < rows) & (column[None, :] < width)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        gate = _gelu_gate(value, EXACT)
        if EXACT:
            slope = gate + value * 0.3989422804014327 * tl.exp(-0.5 * value * value)
        else:
            slope = gate + value * gate * (1.0 - gate) * 1.5957691216057308 * (1.0 + 0.134145 * value * value)
        gradient = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32) * slope
        tl.store(dx + at, gradient, mask=inside)
        gradient = tl.where(inside, gradient, 0.0)
        sums += gradient
        if MEASURE:
            highest = tl.maximum(highest, tl.abs(gradient.to(dx.dtype.element_ty).to(tl.float32)))
    if MEASURE:
        place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        tl.store(largest + place, tl.max(tl.max(highest, 1), 0))
    at = tl.program_id(0).to(tl.int64) * width + column
    tl.store(partial + at, tl.sum(sums, 0), mask=column < width)


def gelu_forward(x_TF: Tensor, exact: bool, measure: bool = False) -> Tensor:
    """Compute :func:`.torch_reference.gelu_forward`."""
    out = torch.empty_like(x_TF)
    largest = _parts(x_TF) if measure else None
    _gelu_pass(x_TF, out, largest, exact)
    if largest is not None:
        note(out, largest)
    return out


def gelu_largest(x_TF: Tensor, exact: bool) -> Tensor:
    """Return the largest absolute numbers of parts of gelu, fp32 [P]; gelu itself is not stored."""
    largest = _parts(x_TF)
    _gelu_pass(x_TF, None, largest, exact)
    return largest


def _parts(x_TF: Tensor) -> Tensor:
    return x_TF.new_empty(triton.cdiv(x_TF.numel(), _BLOCK), dtype=torch.float32)


def _gelu_pass(x_TF: Tensor, out_TF: Tensor | None, largest_P: Tensor | None, exact: bool) -> None:
    _gelu_forward[(triton.cdiv(x_TF.numel(), _BLOCK),)](
        x_TF, out_TF, largest_P, x_TF.numel(),
        EXACT=exact, STORE=out_TF is not None, MEASURE=largest_P is not None, BLOCK=_BLOCK, num_warps=8,
    )  # fmt: skip


def gelu_backward(dy_TF: Tensor, x_TF: Tensor, exact: bool, measure: bool = False) -> tuple[Tensor, Tensor]:
    """Compute :func:`.torch_reference.gelu_backward`."""
    rows, width = x_TF.shape
    dx = torch.empty_like(x_TF)
    columns, block_rows, steps = 512, 4, 32
    grid = (triton.cdiv(rows, block_rows * steps), triton.cdiv(width, columns))
    partial = x_TF.new_empty((grid[0], width), dtype=torch.float32)
    largest = x_TF.new_empty(grid[0] * grid[1], dtype=torch.float32) if measure else None
    _gelu_backward[grid](
        dy_TF, x_TF, dx, partial, largest, rows, width,
        EXACT=exact, MEASURE=measure, COLUMNS=columns, ROWS=block_rows, STEPS=steps, num_warps=8,
    )  # fmt: skip
    if largest is not None:
        note(dx, largest)
    return dx, column_sums(partial)


@triton.jit
def _fp8_scale(largest, scale, parts, limit, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    highest = tl.zeros([BLOCK], tl.float32)
    for start in range(0, parts, BLOCK):
        at = start + tl.arange(0, BLOCK)
        highest = tl.maximum(highest, tl.load(largest + at, mask=at < parts, other=0.0))
    bound = tl.max(highest, 0)
    # A cast to fp8 turns infinity into a large finite number, which would hide it: all becomes nan instead.
    factor = tl.where(bound < float("inf"), limit / tl.maximum(bound, 2.0**-100), float("nan"))
    tl.store(scale, tl.where(bound > 0, factor, 1.0))


def fp8_scale(largest_P: Tensor, limit: float) -> Tensor:
    """Return the factor that scales a tensor's largest absolute number to ``limit``, fp32 [1].

    Args:
        largest_P: The largest absolute numbers of its parts, fp32.
        limit: The largest number of the fp8 type.
    """
    scale = largest_P.new_empty(1)
    _fp8_scale[(1,)](largest_P, scale, largest_P.numel(), limit, BLOCK=8192, num_warps=16)
    return scale
