"""The cross entropy's kernels beside their reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.model.fused.kernels.conftest import TOLERANCES, Draw, same


def check_cross_entropy(dtype: torch.dtype, first: int, valid: int) -> None:
    from megatron_octo.model.fused.kernels import cross_entropy_kernels, torch_reference

    draw, tolerance = Draw(dtype), TOLERANCES[dtype]
    logits, losses = 4 * draw(9, 5000), draw(9).float()
    losses[3] = 0.0
    labels = torch.randint(10_000, (9,), generator=draw.generator)
    labels[0] = first + valid - 1
    ours = cross_entropy_kernels.cross_entropy_forward(logits, labels, valid, first)
    theirs = torch_reference.cross_entropy_forward(logits, labels, valid, first)
    same(ours, theirs, tolerance)
    mine, other = logits.clone(), logits.clone()
    cross_entropy_kernels.cross_entropy_backward_(mine, labels, theirs[0], losses, valid, first)
    torch_reference.cross_entropy_backward_(other, labels, theirs[0], losses, valid, first)
    same([mine], [other], tolerance)


@pytest.mark.parametrize(("first", "valid"), [(0, 5000), (0, 4990), (5000, 4999), (100, 4000)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cross_entropy(dtype: torch.dtype, first: int, valid: int, interpreted: Callable[..., Any]) -> None:
    interpreted(check_cross_entropy, dtype, first, valid)
