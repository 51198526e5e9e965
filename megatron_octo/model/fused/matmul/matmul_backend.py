"""Matrix products of linear layers, in the tensors' own dtype or rounded to fp8.

A matrix product reads *operands*: :meth:`Arithmetic.activation`, :meth:`Arithmetic.gradient` or
:meth:`Arithmetic.weight` makes one of a tensor, once for all products that read it. In bf16 and fp32 the operand is the
tensor itself.

M rows (tokens), N outputs, K inputs.
"""

from collections.abc import Iterable
from typing import Any, override

import torch
from torch import Tensor

from megatron_octo.model.fused.kernels.amax import noted
from megatron_octo.model.fused.matmul import gemm
from megatron_octo.model.fused.matmul import gradient_buffers as gradients
from megatron_octo.model.platform.mcore import using_transformer_engine

Operand = Any  # a tensor, or Transformer Engine's storage of one in fp8


class Arithmetic:
    """Matrix products of tensors in their own dtype, by torch; on a GPU through cuBLAS.

    Attributes:
        name: Short name for records; ``str`` also gives the description and why another was not chosen.
        exact: Exact gelu, or its tanh approximation.
        compact: Operands are smaller than their tensors, so operands are saved for the backward pass.
        measured: Tensors with a noted largest number (:mod:`..kernels.amax`) become operands faster.
    """

    name = "plain"
    compact = False
    measured = False

    def __init__(self, exact: bool, remark: str = ""):
        self.exact, self._remark = exact, remark

    @property
    def description(self) -> str:
        """Return whose products these are, for log lines."""
        return "Transformer Engine's and torch's" if using_transformer_engine() else "torch's"

    def __str__(self) -> str:
        return f"{self.description}; {self._remark}" if self._remark else self.description

    def activation(self, x_MK: Tensor) -> Operand:
        """Return the operand of a linear layer's input."""
        return x_MK

    def gradient(self, d_MN: Tensor) -> Operand:
        """Return the operand of the gradient of a linear layer's output."""
        return d_MN

    def weight(self, weight_NK: Tensor) -> Operand:
        """Return the operand of a weight."""
        return weight_NK

    def for_backward(self, operand: Operand) -> Operand:
        """Return the backward pass's form of a forward pass's operand, which may not be used afterwards."""
        return operand

    def linear(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor | None, out_MN: Tensor) -> Tensor:
        """Write ``x @ weight.T + bias`` to ``out`` and return it."""
        if bias_N is None:
            return torch.mm(x_MK, weight_NK.t(), out=out_MN)
        return torch.addmm(bias_N, x_MK, weight_NK.t(), out=out_MN)

    def linear_gelu(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor) -> tuple[Tensor, Operand]:
        """Return ``x @ weight.T + bias``, [M, N], and the operand of its gelu."""
        before, activated = gemm.linear_gelu(x_MK, weight_NK, bias_N, self.exact)
        return before, self.activation(activated)

    def input_gradient(self, d_MN: Operand, weight_NK: Operand, out_MK: Tensor, accumulate: bool = False) -> Tensor:
        """Write ``d @ weight`` to ``out``, or add it, and return ``out``."""
        if accumulate:
            return out_MK.addmm_(d_MN, weight_NK)
        return torch.mm(d_MN, weight_NK, out=out_MK)

    def gelu_gradient(self, d_MK: Operand, weight_KN: Operand, before_MN: Tensor) -> tuple[Operand, Tensor]:
        """Return the operand of the gradient before gelu, and the sum of that gradient over M, fp32 [N].

        Arguments are those of :func:`.gemm.gelu_gradient`, ``d`` and ``weight`` as operands.
        """
        gradient, total = gemm.gelu_gradient(d_MK, weight_KN, before_MN, self.exact)
        return self.gradient(gradient), total

    def add_weight_gradient(self, main_NK: Tensor, d_MN: Operand, x_MK: Operand, accumulate: bool) -> None:
        """Add ``d.T @ x`` to ``main``, fp32 or bf16, or overwrite it."""
        gemm.add_weight_gradient(main_NK, d_MN, x_MK, accumulate)

    def give_weight_gradient(self, weight_NK: Tensor, pieces: Iterable[tuple[Operand, Operand]]) -> Tensor:
        """Add ``d.T @ x`` to the weight's gradient for each piece (d [M, N], x [M, K]) of the rows; return it.

        Under data parallelism the sum goes to ``weight.main_grad``, and the return value is a placeholder that
        megatron-core drops (``grad_added_to_main_grad``).
        """
        main = getattr(weight_NK, "main_grad", None)
        total = torch.zeros_like(weight_NK) if main is None else main
        for d_MN, x_MK in pieces:
            self.add_weight_gradient(total, d_MN, x_MK, accumulate=gradients.accumulates(weight_NK))
        return total if main is None else gradients.given(weight_NK)


class EmulatedFp8(Arithmetic):
    """Rounds as :class:`.fp8.Fp8` does and stores the result in the usual dtype: fp8's effect on a loss, on a CPU."""

    name = "emulated fp8"
    compact = True  # not smaller, but the backward pass must read what the forward pass rounded
    measured = True

    @property
    @override
    def description(self) -> str:
        return "torch's, of numbers rounded to fp8"

    @override
    def activation(self, x_MK: Tensor) -> Tensor:
        return rounded(x_MK, torch.float8_e4m3fn)

    @override
    def gradient(self, d_MN: Tensor) -> Tensor:
        return rounded(d_MN, torch.float8_e5m2)

    @override
    def weight(self, weight_NK: Tensor) -> Tensor:
        return rounded(weight_NK, torch.float8_e4m3fn)


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Round a tensor to an fp8 type, scaled so that its largest number is the type's, and back to its own dtype."""
    parts = noted(tensor)
    largest = tensor.abs().amax().float() if parts is None else parts.amax()
    scale = torch.where(largest > 0, torch.finfo(dtype).max / largest, 1.0).clamp(max=2.0**100)
    return ((tensor.float() * scale).to(dtype).float() / scale).to(tensor.dtype)
