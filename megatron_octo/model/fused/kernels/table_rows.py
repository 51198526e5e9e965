"""Triton kernel that adds gradients to rows of a table. ``torch_reference`` computes the same in plain torch.

T row numbers, R rows of the table, H columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS = 1024  # per program


@triton.jit
def _sum_of(d, order, rows, first, mine, count, column, inside, width, PLACES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Sum ``d`` over those of PLACES sorted numbers from ``first`` on that equal ``mine``; also whether all do."""
    place = first + tl.arange(0, PLACES)
    same = (place < count) & (tl.load(rows + place, mask=place < count, other=0) == mine)
    line = tl.load(order + place, mask=same, other=0).to(tl.int64)
    at = line[:, None] * width + column[None, :]
    part = tl.load(d + at, mask=same[:, None] & inside[None, :], other=0.0).to(tl.float32)
    return tl.sum(part, 0), tl.min(same.to(tl.int32), 0) == 1


@triton.jit
def _add_rows(  # type: ignore[no-untyped-def]
    table, rows, order, d, count, height, width, FEW: tl.constexpr, MANY: tl.constexpr, COLUMNS: tl.constexpr
):
    # One program per sorted number; that of the first of equal ones adds them all, in a fixed order: no atomics.
    first = tl.program_id(0)
    mine = tl.load(rows + first)
    before = tl.load(rows + tl.maximum(first - 1, 0))
    if (mine >= 0) & (mine < height) & ((first == 0) | (before != mine)):
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        inside = column < width
        at = mine.to(tl.int64) * width + column
        # Most numbers occur once, a few thousands of times.
        total, more = _sum_of(d, order, rows, first, mine, count, column, inside, width, FEW)
        first += FEW
        while more:
            part, more = _sum_of(d, order, rows, first, mine, count, column, inside, width, MANY)
            total += part
            first += MANY
        total += tl.load(table + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(table + at, total, mask=inside)


def add_rows_(table_RH: Tensor, rows_T: Tensor, d_TH: Tensor) -> None:
    """Compute :func:`.torch_reference.add_rows_`."""
    height, width = table_RH.shape
    rows, order = rows_T.to(torch.int32).sort(stable=True)
    grid = (rows.numel(), triton.cdiv(width, _COLUMNS))
    _add_rows[grid](
        table_RH,
        rows,
        order,
        d_TH,
        rows.numel(),
        height,
        width,
        FEW=4,
        MANY=16,
        COLUMNS=_COLUMNS,
        num_warps=4,
    )
