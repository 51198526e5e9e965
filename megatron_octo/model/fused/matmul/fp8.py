"""Linear layers in fp8 on Transformer Engine: activations and weights in E4M3, gradients in E5M2.

Each tensor is scaled by its present maximum ("current scaling"): no state is kept from step to step, so a resumed run
is the same. Hopper multiplies fp8 matrices in one layout only, so an operand holds its numbers twice: as they are for
the forward pass, and transposed for the backward pass.
"""

from functools import partial
from typing import Any, override

import torch
from torch import Tensor

from megatron_octo.model.fused.kernels import gelu_kernels, ops
from megatron_octo.model.fused.kernels.amax import noted
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic, Operand


class _Rounding:
    """Rounds tensors to one fp8 type, E4M3 or E5M2, whose largest number is ``limit``."""

    def __init__(self, dtype: Any, limit: float):
        from transformer_engine.pytorch.tensor import float8_tensor

        device = torch.device("cuda", torch.cuda.current_device())
        self._quantizer, self._dtype, self._limit = float8_tensor.Float8Quantizer, dtype, limit
        self._no_amax = torch.empty(0, device=device)
        self._measuring = float8_tensor.Float8CurrentScalingQuantizer(dtype, device)
        self._measuring.internal = True  # the bare storage, which takes less CPU time

    def __call__(self, x: Tensor) -> Operand:
        parts_P = noted(x)
        return (self._measuring if parts_P is None else self.with_scale(parts_P))(x)

    def with_scale(self, parts_P: Tensor) -> Any:
        """Return Transformer Engine's quantizer for a tensor whose parts have these largest numbers, fp32 [P]."""
        scale = gelu_kernels.fp8_scale(parts_P, self._limit)
        quantizer = self._quantizer(scale, self._no_amax, self._dtype)
        quantizer.internal = True
        return quantizer


class Fp8(Arithmetic):
    """Matrix products of fp8 operands with fp32 sums; outputs are bf16, weight gradients fp32.

    In the backward pass the tensor cores' partial sums are also added in fp32 ("split accumulator"), as in Transformer
    Engine's recipe of current scaling.
    """

    name = "fp8"
    compact = True
    measured = True

    @property
    @override
    def description(self) -> str:
        return "Transformer Engine's in fp8"

    def __init__(self, exact: bool):
        super().__init__(exact)
        import transformer_engine_torch as tex
        from transformer_engine.pytorch.cpp_extensions import general_gemm

        self._gemm, self._gelu = general_gemm, tex.gelu
        self._backward_gemm = partial(general_gemm, grad=True, use_split_accumulator=True)
        self._e4m3 = _Rounding(tex.DType.kFloat8E4M3, torch.finfo(torch.float8_e4m3fn).max)
        self._e5m2 = _Rounding(tex.DType.kFloat8E5M2, torch.finfo(torch.float8_e5m2).max)

    @override
    def activation(self, x_MK: Tensor) -> Operand:
        return self._e4m3(x_MK)

    @override
    def gradient(self, d_MN: Tensor) -> Operand:
        return self._e5m2(d_MN.contiguous())

    @override
    def weight(self, weight_NK: Tensor) -> Operand:
        return self._e4m3(weight_NK.detach())

    @override
    def for_backward(self, operand: Operand) -> Operand:
        operand.update_usage(rowwise_usage=False, columnwise_usage=True)
        return operand

    @override
    def linear(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor | None, out_MN: Tensor) -> Tensor:
        self._gemm(weight_NK, x_MK, out_dtype=out_MN.dtype, bias=bias_N, out=out_MN)
        return out_MN

    @override
    def linear_gelu(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor) -> tuple[Tensor, Operand]:
        before: Tensor = self._gemm(weight_NK, x_MK, out_dtype=bias_N.dtype, bias=bias_N)[0]
        if self.exact:
            return before, self.activation(ops.gelu_forward(before, True, True))
        # Gelu is computed twice, for its largest number and to be rounded: that is faster than storing it.
        return before, self._gelu(before, self._e4m3.with_scale(gelu_kernels.gelu_largest(before, False)))

    @override
    def input_gradient(self, d_MN: Operand, weight_NK: Operand, out_MK: Tensor, accumulate: bool = False) -> Tensor:
        self._backward_gemm(weight_NK, d_MN, layout="NN", out_dtype=out_MK.dtype, out=out_MK, accumulate=accumulate)
        return out_MK

    @override
    def gelu_gradient(self, d_MK: Operand, weight_KN: Operand, before_MN: Tensor) -> tuple[Operand, Tensor]:
        after = self.input_gradient(d_MK, weight_KN, torch.empty_like(before_MN))
        gradient, total = ops.gelu_backward(after, before_MN, self.exact, True)
        return self.gradient(gradient), total

    @override
    def add_weight_gradient(self, main_NK: Tensor, d_MN: Operand, x_MK: Operand, accumulate: bool) -> None:
        self._backward_gemm(x_MK, d_MN, layout="NT", out_dtype=main_NK.dtype, out=main_NK, accumulate=accumulate)
