"""The kernel that adds gradients to rows of a table beside its reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.fused.kernels.conftest import TOLERANCES, Draw, same


def check_add_rows(dtype: torch.dtype, columns: int) -> None:
    """Rows that are named once, never, one more than a tile, many times; some lie outside the table."""
    from megatron_octo.model.fused.kernels import table_rows, torch_reference

    draw, tolerance = Draw(dtype), TOLERANCES[dtype]
    numbers = torch.randint(-3, 60, (90,), generator=draw.generator)
    numbers[:43], numbers[50:55], numbers[-1] = 7, 50, 51
    d, table = draw(90, columns), draw(55, columns)
    mine, other = table.clone(), table.clone()
    table_rows.add_rows_(mine, numbers, d)
    torch_reference.add_rows_(other, numbers, d)
    same([mine], [other], tolerance)
    for row in (7, 49, 50, 51):
        expected = table[row].float() + d[numbers == row].float().sum(0)
        same([other[row]], [expected], tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 1100])  # less, and more, than one program's
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_add_rows(dtype: torch.dtype, columns: int, interpreted: Callable[..., Any]) -> None:
    interpreted(check_add_rows, dtype, columns)
