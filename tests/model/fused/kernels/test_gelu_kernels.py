"""The kernels of gelu, its gradient and the scales of fp8."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.fused.kernels.conftest import TOLERANCES, Draw, measured, same


def check_gelu(dtype: torch.dtype, exact: bool) -> None:
    from megatron_octo.model.fused.kernels import gelu_kernels, torch_reference

    draw, tolerance = Draw(dtype), TOLERANCES[dtype]
    x, dy = 2 * draw(300, 260), draw(300, 260)
    out = gelu_kernels.gelu_forward(x, exact)
    same([out], [torch_reference.gelu_forward(x, exact)], tolerance)
    measured(gelu_kernels.gelu_forward(x, exact, True), out)
    assert gelu_kernels.gelu_largest(x, exact).max() == out.abs().max()
    gradients = gelu_kernels.gelu_backward(dy, x, exact)
    same(gradients, torch_reference.gelu_backward(dy, x, exact), 3 * tolerance)
    measured(gelu_kernels.gelu_backward(dy, x, exact, True)[0], gradients[0])


def check_fp8_scale() -> None:
    """More parts than are read at a time, the largest number at either end; zero, infinity, a tiny number."""
    from megatron_octo.model.fused.kernels.gelu_kernels import fp8_scale

    for place in (0, 8191, 8192, 19_999):
        parts = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
        parts[place] = 7.0
        assert fp8_scale(parts, 448.0) == 64.0
    for largest, scale in ((0.0, 1.0), (float("inf"), float("nan")), (1e-38, 448 * 2.0**100)):
        found = fp8_scale(torch.tensor([0.0, largest]), 448.0)
        torch.testing.assert_close(found, torch.tensor([scale]), equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gelu(dtype: torch.dtype, exact: bool, interpreted: Callable[..., Any]) -> None:
    interpreted(check_gelu, dtype, exact)


def test_fp8_scale(interpreted: Callable[..., Any]) -> None:
    interpreted(check_fp8_scale)
