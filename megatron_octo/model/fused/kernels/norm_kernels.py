"""Triton kernels of residual, dropout and layer norm in one pass. ``torch_reference`` computes the same in plain torch.

T tokens, H hidden size. Everything is computed in fp32 and rounded once, when it is stored.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from megatron_octo.model.fused.kernels.amax import note
from megatron_octo.model.fused.kernels.column_sums import column_sums

_MULTIPROCESSORS = 132  # of an H100, on every GPU: sums are taken in the same order everywhere


def _warps(block: int) -> int:
    return 4 if block <= 2048 else 8 if block <= 4096 else 16


def _programs_and_stages(block: int, element_size: int) -> tuple[int, int]:
    """Return the number of programs of the norm's backward pass, and of pipeline stages of each.

    Registers limit the programs. One stage's row is computed while the others' are loaded into shared memory, of which
    a program may take 96 KiB on every GPU that computes in bf16.
    """
    row_bytes = 3 * block * element_size  # three tensors are read
    return _MULTIPROCESSORS * max(1, min(8, 6144 // block)), min(3, 1 + 96 * 1024 // row_bytes)


@triton.jit
def _kept(seed, row, p, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Draw dropout's factors of a row, 0 or 1 / (1 - p), from seed and position alone."""
    # rand4x gives four numbers for one computation.
    a, b, c, d = tl.rand4x(seed, row * (BLOCK // 4) + tl.arange(0, BLOCK // 4))
    draws = tl.reshape(tl.join(tl.join(a, b), tl.join(c, d)), [BLOCK])
    return tl.where(draws >= p, 1.0 / (1.0 - p), 0.0)


@triton.jit
def _add_norm_forward(  # type: ignore[no-untyped-def]
    residual, delta, bias, weight, shift, summed, normed, mean, rstd, largest, seed, width, eps, p,
    DELTA: tl.constexpr, DROPOUT: tl.constexpr, MEASURE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row * width + column
    x = tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    if DELTA:
        d = tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        d += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            d *= _kept(seed, row, p, BLOCK)
        # The backward pass sees the stored sum: the norm is taken of it, not of a finer one.
        x = (x + d).to(summed.dtype.element_ty)
        tl.store(summed + at, x, mask=inside)
        x = x.to(tl.float32)
    center = tl.sum(x, 0) / width
    x = tl.where(inside, x - center, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    out = (x * scale * w + b).to(normed.dtype.element_ty)
    tl.store(normed + at, out, mask=inside)
    if MEASURE:
        tl.store(largest + row, tl.max(tl.abs(out.to(tl.float32)), 0))
    tl.store(mean + row, center)
    tl.store(rstd + row, scale)


@triton.jit
def _add_norm_backward(  # type: ignore[no-untyped-def]
    d_summed, d_normed, summed, weight, mean, rstd, d_residual, d_delta, partial, largest, seed, rows, width, p,
    DELTA: tl.constexpr, DROPOUT: tl.constexpr, MEASURE: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    here = column < width
    w = tl.load(weight + column, mask=here, other=0.0).to(tl.float32)
    d_weight = tl.zeros([BLOCK], tl.float32)
    d_shift = tl.zeros([BLOCK], tl.float32)
    d_bias = tl.zeros([BLOCK], tl.float32)
    # One number: a block of them would take registers, and so programs, of a multiprocessor.
    highest = 0.0
    # The next rows are loaded while this one is computed: memory would be idle during the sums over a row.
    for step in tl.range(0, STEPS, num_stages=STAGES):
        row = (program + step * tl.num_programs(0)).to(tl.int64)
        inside = (column < width) & (row + tl.zeros_like(column) < rows)
        at = row * width + column
        x = tl.load(summed + at, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(d_normed + at, mask=inside, other=0.0).to(tl.float32)
        known = tl.minimum(row, rows - 1)  # a row past the last is masked below
        scale = tl.load(rstd + known)
        x = tl.where(inside, (x - tl.load(mean + known)) * scale, 0.0)
        d_weight += dy * x
        d_shift += dy
        dy *= w
        dx = scale * (dy - tl.sum(dy, 0) / width - x * (tl.sum(dy * x, 0) / width))
        dx += tl.load(d_summed + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(d_residual + at, dx, mask=inside)
        if DELTA:
            if DROPOUT:
                dx *= _kept(seed, row, p, BLOCK)
                tl.store(d_delta + at, dx, mask=inside)
            dx = tl.where(inside, dx, 0.0)
            d_bias += dx
            if MEASURE:
                highest = tl.maximum(highest, tl.max(tl.abs(dx), 0))
    at = program * 3 * width + column
    tl.store(partial + at, d_weight, mask=here)
    tl.store(partial + at + width, d_shift, mask=here)
    tl.store(partial + at + 2 * width, d_bias, mask=here)
    if MEASURE:
        rounded = highest.to(d_delta.dtype.element_ty)  # type: ignore[attr-defined] # Triton made a tensor of it
        tl.store(largest + program, rounded.to(tl.float32))


def add_norm_forward(
    residual_TH: Tensor,
    delta_TH: Tensor | None,
    bias_H: Tensor | None,
    weight_H: Tensor,
    shift_H: Tensor,
    eps: float,
    p: float,
    seed: int,
    measure: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute :func:`.torch_reference.add_norm_forward`; ``seed`` draws other numbers than there."""
    rows, width = residual_TH.shape
    summed = torch.empty_like(residual_TH) if delta_TH is not None else residual_TH
    normed = torch.empty_like(residual_TH)
    mean, rstd = residual_TH.new_empty((2, rows), dtype=torch.float32)
    largest = residual_TH.new_empty(rows, dtype=torch.float32) if measure else None
    block = triton.next_power_of_2(width)
    _add_norm_forward[(rows,)](
        residual_TH, delta_TH, bias_H, weight_H, shift_H, summed, normed, mean, rstd, largest, seed, width, eps, p,
        DELTA=delta_TH is not None, DROPOUT=p > 0, MEASURE=measure, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    if largest is not None:
        note(normed, largest)
    return summed, normed, mean, rstd


def add_norm_backward(
    d_summed_TH: Tensor,
    d_normed_TH: Tensor,
    summed_TH: Tensor,
    weight_H: Tensor,
    mean_T: Tensor,
    rstd_T: Tensor,
    has_delta: bool,
    p: float,
    seed: int,
    measure: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute :func:`.torch_reference.add_norm_backward`, with the dropout mask of the forward kernel."""
    rows, width = summed_TH.shape
    d_residual = torch.empty_like(summed_TH)
    dropout = has_delta and p > 0
    d_delta = torch.empty_like(summed_TH) if dropout else d_residual
    block = triton.next_power_of_2(width)
    most, stages = _programs_and_stages(block, summed_TH.element_size())
    programs = min(rows, most)
    partial = summed_TH.new_empty((programs, 3, width), dtype=torch.float32)
    largest = summed_TH.new_empty(programs, dtype=torch.float32) if measure and has_delta else None
    _add_norm_backward[(programs,)](
        d_summed_TH, d_normed_TH, summed_TH, weight_H, mean_T, rstd_T, d_residual, d_delta, partial,
        largest, seed, rows, width, p,
        DELTA=has_delta, DROPOUT=dropout, MEASURE=largest is not None, STEPS=triton.cdiv(rows, programs),
        STAGES=stages, BLOCK=block, num_warps=_warps(block),
    )  # fmt: skip
    if largest is not None:
        note(d_delta, largest)
    return d_residual, d_delta, column_sums(partial.view(programs, -1)).view(3, width)
