"""The kernel that sums a matrix over its rows beside its reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.fused.kernels.conftest import TOLERANCES, Draw, same


def check_column_sums(dtype: torch.dtype, rows: int, width: int, transposed: bool) -> None:
    from megatron_octo.model.fused.kernels import torch_reference
    from megatron_octo.model.fused.kernels.column_sums import column_sums

    draw = Draw(dtype)
    x = draw(width, rows).t() if transposed else draw(rows, width + 8)[:, 8:]  # a part of a wider matrix
    same([column_sums(x)], [torch_reference.column_sums(x)], 1e-4 * rows**0.5)


# One row, fewer than a tile's, more than are summed at once.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "width", "transposed"),
    [(1, 3, False), (31, 100, False), (1025, 70, False), (4133, 64, False), (70, 40, True)],
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_column_sums(
    dtype: torch.dtype, rows: int, width: int, transposed: bool, interpreted: Callable[..., Any]
) -> None:
    interpreted(check_column_sums, dtype, rows, width, transposed)
