"""Triton kernel that sums a matrix over its rows, in a fixed order. ``torch_reference`` computes it in plain torch.

M rows, N columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_MANY = 1024  # rows; more are summed in parts first
_PARTS = 64
_ROWS = 32  # rows that a program reads at a time


@triton.jit
def _column_sums(  # type: ignore[no-untyped-def]
    x, sums, rows, width, stride, STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    part = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in range(STEPS):
        row = (part + step * tl.num_programs(0)) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        at = row.to(tl.int64)[:, None] * stride + column[None, :]
        total += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(sums + part * width + column, tl.sum(total, 0), mask=column < width)


def column_sums(x_MN: Tensor) -> Tensor:
    """Sum the rows in fp32: [N]."""
    if x_MN.size(0) > _MANY:
        x_MN = _summed(x_MN, _PARTS, 64)
    return _summed(x_MN, 1, 32)[0]


def _summed(x_MN: Tensor, parts: int, columns: int) -> Tensor:
    """Sum each of ``parts`` parts of the rows, fp32 [parts, N]; ``columns`` per program."""
    rows, width = x_MN.shape
    x_MN = x_MN if x_MN.stride(1) == 1 else x_MN.contiguous()
    sums = x_MN.new_empty((parts, width), dtype=torch.float32)
    _column_sums[(parts, triton.cdiv(width, columns))](
        x_MN, sums, rows, width, x_MN.stride(0),
        STEPS=triton.cdiv(rows, parts * _ROWS), ROWS=_ROWS, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return sums
