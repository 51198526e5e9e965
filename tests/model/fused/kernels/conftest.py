"""A process in which Triton's interpreter runs the kernels, the very code, without a GPU."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

# Relative and absolute tolerance of a kernel beside its reference.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.fixture(scope="package")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Calls a module's function with arguments in that process; its exception is raised here.

    Triton decides at import whether it interprets, and this process may have imported it already.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            yield lambda function, *arguments: process.submit(function, *arguments).result()


class Draw:
    """Random tensors, the same in every run."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.generator, self.dtype = torch.Generator().manual_seed(0), dtype

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator).to(self.dtype)


def same(ours: Any, theirs: Any, tolerance: float) -> None:
    """Check that two sequences of tensors agree within a relative and absolute tolerance."""
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=tolerance, atol=tolerance)


def measured(with_note: Tensor, without: Tensor) -> None:
    """Check that noting the largest number changes no bit, and that the note is right."""
    from megatron_octo.model.fused.kernels.amax import noted

    assert torch.equal(with_note, without)
    found = noted(with_note)
    assert noted(without) is None and found is not None and found.max() == without.abs().max()
