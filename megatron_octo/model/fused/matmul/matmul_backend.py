"""In which numbers the linear layers compute: the tensors' own, or fp8.

What enters a matrix product is an *operand*: what :meth:`Arithmetic.activation`, :meth:`Arithmetic.gradient` or
:meth:`Arithmetic.weight` makes of a tensor, once for all products that it enters. In bf16 and fp32 that is the tensor.

M rows (tokens), N outputs, K inputs.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from megatron_octo.model.fused.kernels.amax import noted
from megatron_octo.model.fused.matmul import gemm
from megatron_octo.model.fused.matmul import gradient_buffers as gradients
from megatron_octo.model.platform.mcore import using_transformer_engine

Operand = Any  # a tensor, or Transformer Engine's storage of one in fp8


class Arithmetic:
    """Matrix products of tensors as they are, by torch; on a GPU cuBLAS computes them.

    Attributes:
        name: for records; ``description`` says more, and ``str`` also why it is not another.
        exact: whether gelu is the exact one, or its tanh approximation.
        compact: whether operands are smaller than what they are made of: the backward pass is then left operands.
        measured: whether operands are made faster of tensors whose largest number is noted (module ``measured``).
    """

    name = "plain"
    compact = False
    measured = False

    def __init__(self, exact: bool, remark: str = ""):
        self.exact, self._remark = exact, remark

    @property
    def description(self) -> str:
        return "Transformer Engine's and torch's" if using_transformer_engine() else "torch's"

    def __str__(self) -> str:
        return f"{self.description}; {self._remark}" if self._remark else self.description

    def activation(self, x_MK: Tensor) -> Operand:
        """Of a linear layer's input."""
        return x_MK

    def gradient(self, d_MN: Tensor) -> Operand:
        """Of the gradient of a linear layer's output."""
        return d_MN

    def weight(self, weight_NK: Tensor) -> Operand:
        return weight_NK

    def for_backward(self, operand: Operand) -> Operand:
        """What the backward pass needs of a forward pass's operand. The operand itself is not used any more."""
        return operand

    def linear(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor | None, out_MN: Tensor) -> Tensor:
        """``x @ weight.T + bias``."""
        if bias_N is None:
            return torch.mm(x_MK, weight_NK.t(), out=out_MN)
        return torch.addmm(bias_N, x_MK, weight_NK.t(), out=out_MN)

    def linear_gelu(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor) -> tuple[Tensor, Operand]:
        """``x @ weight.T + bias``, [M, N], and the operand of its gelu."""
        before, activated = gemm.linear_gelu(x_MK, weight_NK, bias_N, self.exact)
        return before, self.activation(activated)

    def input_gradient(
        self, d_MN: Operand, weight_NK: Operand, out_MK: Tensor, accumulate: bool = False
    ) -> Tensor:
        """``d @ weight``, or that added to what ``out`` holds."""
        if accumulate:
            return out_MK.addmm_(d_MN, weight_NK)
        return torch.mm(d_MN, weight_NK, out=out_MK)

    def gelu_gradient(self, d_MK: Operand, weight_KN: Operand, before_MN: Tensor) -> tuple[Operand, Tensor]:
        """The operand of the gradient before gelu, from the gradient after the linear layer that follows it; and the
        sum of that gradient over the rows, fp32 [N]."""
        gradient, total = gemm.gelu_gradient(d_MK, weight_KN, before_MN, self.exact)
        return self.gradient(gradient), total

    def add_weight_gradient(self, main_NK: Tensor, d_MN: Operand, x_MK: Operand, accumulate: bool) -> None:
        """Add ``d.T @ x`` to ``main``, fp32 or bf16, or write it over what is there."""
        gemm.add_weight_gradient(main_NK, d_MN, x_MK, accumulate)

    def give_weight_gradient(self, weight_NK: Tensor, pieces: Iterable[tuple[Operand, Operand]]) -> Tensor:
        """Add ``d.T @ x`` to the weight's gradient, for each piece of the rows: gradients [M, N] and inputs [M, K].

        Under data parallelism it is added to ``weight.main_grad`` here; the gradient returned to autograd is then of
        no meaning (megatron-core drops it when it sees ``grad_added_to_main_grad``).
        """
        main = getattr(weight_NK, "main_grad", None)
        total = torch.zeros_like(weight_NK) if main is None else main
        for d_MN, x_MK in pieces:
            self.add_weight_gradient(total, d_MN, x_MK, accumulate=gradients.accumulates(weight_NK))
        return total if main is None else gradients.given(weight_NK)


class EmulatedFp8(Arithmetic):
    """The rounding of :class:`.fp8.Fp8` in tensors of the usual type: what fp8 does to a loss,
    on the CPU. Nothing is smaller or faster by it."""

    name = "emulated fp8"
    compact = True  # the backward pass is left what the forward pass rounded
    measured = True

    @property
    def description(self) -> str:
        return "torch's, of numbers rounded to fp8"

    def activation(self, x_MK: Tensor) -> Tensor:
        return rounded(x_MK, torch.float8_e4m3fn)

    def gradient(self, d_MN: Tensor) -> Tensor:
        return rounded(d_MN, torch.float8_e5m2)

    def weight(self, weight_NK: Tensor) -> Tensor:
        return rounded(weight_NK, torch.float8_e4m3fn)


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as an fp8 type holds it, scaled so that its largest number is the type's largest."""
    parts = noted(tensor)
    largest = tensor.abs().amax().float() if parts is None else parts.amax()
    scale = torch.where(largest > 0, torch.finfo(dtype).max / largest, 1.0).clamp(max=2.0**100)
    return ((tensor.float() * scale).to(dtype).float() / scale).to(tensor.dtype)
