"""The kernels of residual, dropout and norm beside their reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.fused.kernels.conftest import TOLERANCES, Draw, measured, same


def check_add_norm(dtype: torch.dtype, added: bool) -> None:
    from megatron_octo.model.fused.kernels import norm_kernels, torch_reference

    rows, width = 37, 96  # neither a power of two
    draw, tolerance = Draw(dtype), TOLERANCES[dtype]
    residual, delta = 3 * draw(rows, width), 3 * draw(rows, width)
    bias, weight, shift = (draw(width) for _ in range(3))
    forward = (residual, delta if added else None, bias if added else None, weight, shift, 1e-5, 0.0, 0)
    ours, theirs = norm_kernels.add_norm_forward(*forward), torch_reference.add_norm_forward(*forward)
    same(ours, theirs, tolerance)
    measured(norm_kernels.add_norm_forward(*forward, True)[1], ours[1])
    summed, _, mean, rstd = theirs
    backward = (draw(rows, width), draw(rows, width), summed, weight, mean, rstd, added, 0.0, 0)
    gradients = norm_kernels.add_norm_backward(*backward)
    same(gradients, torch_reference.add_norm_backward(*backward), 3 * tolerance)
    if added:
        measured(norm_kernels.add_norm_backward(*backward, True)[1], gradients[1])


def check_wide_rows(dtype: torch.dtype) -> None:
    """So wide that a program takes several rows, one more than another."""
    from megatron_octo.model.fused.kernels import norm_kernels, torch_reference

    draw = Draw(dtype)
    d_summed, d_normed, summed = (draw(270, 2100) for _ in range(3))
    mean, rstd = summed.float().mean(1), 1 / summed.float().std(1)
    arguments = (d_summed, d_normed, summed, draw(2100), mean, rstd, True, 0.0, 0)
    ours = norm_kernels.add_norm_backward(*arguments)
    same(ours, torch_reference.add_norm_backward(*arguments), 5 * TOLERANCES[dtype])


def check_dropout() -> None:
    """Its rate, its scale, and the same mask forwards and backwards."""
    from megatron_octo.model.fused.kernels import norm_kernels
    from megatron_octo.model.fused.kernels.amax import noted

    rows, width, p = 64, 128, 0.25
    ones, zeros, line = torch.ones(rows, width), torch.zeros(rows, width), torch.zeros(width)

    def dropped(seed: int) -> Any:
        return norm_kernels.add_norm_forward(zeros, ones, line, line, line, 1e-5, p, seed)

    summed, _, mean, rstd = dropped(7)
    torch.testing.assert_close(summed.unique(), torch.tensor([0.0, 1 / (1 - p)]))
    assert abs((summed == 0).float().mean() - p) < 0.02
    rest = (zeros, summed, line, mean, rstd, True, p, 7)
    d_residual, d_delta, sums = norm_kernels.add_norm_backward(ones, *rest)
    assert torch.equal(d_delta, summed) and torch.equal(d_residual, ones)
    torch.testing.assert_close(sums[2], summed.sum(0))
    assert not torch.equal(dropped(8)[0], summed)
    # The note is of what dropout left of the residual's gradient.
    residual, delta, _ = norm_kernels.add_norm_backward(Draw()(rows, width), *rest, True)
    largest = noted(delta)
    assert noted(residual) is None and largest is not None
    assert largest.max() == delta.abs().max() != residual.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_add_norm(dtype: torch.dtype, added: bool, interpreted: Callable[..., Any]) -> None:
    interpreted(check_add_norm, dtype, added)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_wide_rows(dtype: torch.dtype, interpreted: Callable[..., Any]) -> None:
    interpreted(check_wide_rows, dtype)


@pytest.mark.slow
def test_dropout(interpreted: Callable[..., Any]) -> None:
    interpreted(check_dropout)
