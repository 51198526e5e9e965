"""The linear layers' functions in fp8, emulated, beside the same mathematics in a few lines."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.kernels.amax import note, noted
from megatron_octo.model.fused.layer_functions import AddNorm, Mlp, Projection, QueryKeyValue
from megatron_octo.model.fused.matmul import matmul_backend as arithmetic
from megatron_octo.model.fused.matmul.matmul_backend import EmulatedFp8, rounded

ALONE = TensorGroup(None, 1, 0, False)  # type: ignore[arg-type]
TOKENS, HIDDEN, HEAD, INNER = 48, 32, 8, 64


class RoundedLinear(torch.autograd.Function):
    """A linear layer whose three matrix products read rounded numbers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x, weight = (rounded(t, torch.float8_e4m3fn) for t in (x, weight))
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        d = rounded(d, torch.float8_e5m2)
        return d @ weight, d.t() @ x


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def compare(ours: list[Tensor], theirs: list[Tensor], inputs: list[Tensor]) -> None:
    """Values, and gradients of all inputs for random gradients of all outputs."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(each.shape, generator=generator) for each in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    first = torch.autograd.grad(ours, inputs, weights)
    for mine, other in zip(first, torch.autograd.grad(theirs, inputs, weights), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
        assert mine.abs().max() > 0


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_mlp(exact: bool, recompute: bool) -> None:
    inputs = leaves((TOKENS, HIDDEN), (INNER, HIDDEN), (INNER,), (HIDDEN, INNER))
    x, weight1, bias1, weight2 = inputs
    ours = Mlp.apply(x, weight1, bias1, weight2, ALONE, recompute, EmulatedFp8(exact))
    inner = F.gelu(RoundedLinear.apply(x, weight1) + bias1, approximate="none" if exact else "tanh")
    compare([ours], [RoundedLinear.apply(inner, weight2)], inputs)


def test_projection() -> None:
    inputs = leaves((TOKENS, HIDDEN), (HIDDEN, HIDDEN))
    compare([Projection.apply(*inputs, ALONE, EmulatedFp8(False))], [RoundedLinear.apply(*inputs)], inputs)


def test_query_key_value() -> None:
    inputs = leaves((TOKENS, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN,), (2 * HEAD, HIDDEN), (2 * HEAD,))
    x, query_weight, query_bias, shared_weight, shared_bias = inputs
    ours = QueryKeyValue.apply(*inputs, ALONE, EmulatedFp8(False))
    query = RoundedLinear.apply(x, query_weight) + query_bias
    shared = RoundedLinear.apply(x, shared_weight) + shared_bias
    # The gradient of key and value is one matrix, rounded with one maximum.
    compare([ours[0], torch.cat(ours[1:], 1)], [query, shared], inputs)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_rounding(dtype: torch.dtype) -> None:
    x = 1e-3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    found = rounded(x, dtype)
    largest = x.abs().argmax()
    torch.testing.assert_close(found[largest], x[largest])  # the type's largest number is used
    steps = 2.0 ** -(4 if dtype == torch.float8_e4m3fn else 3)  # half a step of 3 and of 2 bits of mantissa
    big = x.abs() > x.abs().max() / 256
    assert ((found - x).abs() / x.abs())[big].max() <= steps * 1.001
    assert len(found.unique()) < len(x) / 2
    assert torch.equal(rounded(torch.zeros(4), dtype), torch.zeros(4))


def test_rounding_of_next_to_nothing() -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        tiny = torch.tensor([1e-37, 0.0, -1e-38])
        assert rounded(tiny, dtype).isfinite().all()
        assert rounded(tiny, dtype)[1] == 0


def test_what_kernels_measured_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms note the largest number of what they give to linear layers, forwards and backwards, and it is found."""
    found: list[tuple[Tensor, Tensor | None]] = []

    def spy(tensor: Tensor) -> Tensor | None:
        found.append((tensor.detach().clone(), noted(tensor)))
        return found[-1][1]

    monkeypatch.setattr(arithmetic, "noted", spy)
    residual, delta, weight1, weight2 = inputs = leaves(
        (TOKENS, HIDDEN), (TOKENS, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)
    )
    biases = leaves((HIDDEN,), (INNER,), (HIDDEN,), (HIDDEN,))
    for p in (0.0, 0.5):
        found.clear()
        stream = AddNorm.apply(residual, delta, biases[0], *biases[2:], 1e-5, p, 1, True)
        after = Mlp.apply(stream[1], weight1, biases[1], weight2, ALONE, False, EmulatedFp8(False))
        out = AddNorm.apply(stream[0], after, biases[0], *biases[2:], 1e-5, p, 2, True)
        torch.autograd.grad(out, inputs, [torch.randn_like(each) for each in out])
        shapes = {tuple(tensor.shape) for tensor, parts in found if parts is not None}
        assert shapes == {(TOKENS, HIDDEN)}
        counted = [parts for tensor, parts in found if tensor.shape == (TOKENS, HIDDEN)]
        assert len(counted) == 2 and None not in counted  # the norm, and the gradient of the layer's output
        for tensor, parts in found:
            assert parts is None or parts.max() == tensor.abs().max()


def test_a_note_is_of_what_was_written() -> None:
    tensor = torch.ones(3)
    assert noted(tensor) is None
    note(tensor, torch.tensor([1.0]))
    assert noted(tensor) == 1.0
    assert noted(tensor[:2]) is None  # of another tensor
    tensor.mul_(2)
    assert noted(tensor) is None
