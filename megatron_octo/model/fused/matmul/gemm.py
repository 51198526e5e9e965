"""Matrix products of the fused layers through cuBLAS, with gelu, and weight gradients added to the gradient buffer.

M rows (tokens), N outputs, K inputs. Where Transformer Engine is present its cuBLAS calls are used: they compute the
tanh form of gelu in the product's epilogue, and accumulate in fp32 without a second pass.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_octo.model.fused.kernels import ops
from megatron_octo.model.platform.mcore import using_transformer_engine


@functools.cache
def _engine() -> Any:
    if not using_transformer_engine():
        return None
    from transformer_engine.pytorch.cpp_extensions import general_gemm

    return general_gemm


def _transformer_engine(x: Tensor) -> Any:
    """Return Transformer Engine's matrix product for bf16 on a GPU, else None: it computes fp32 in tf32."""
    return _engine() if x.is_cuda and x.dtype == torch.bfloat16 else None


def linear_gelu(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return ``x @ weight.T + bias`` and gelu of that; both [M, N] in x's dtype."""
    if not exact and (gemm := _transformer_engine(x_MK)):
        activated, _, before, _ = gemm(weight_NK, x_MK, bias=bias_N, gelu=True)
        return before, activated
    before = F.linear(x_MK, weight_NK, bias_N)
    return before, ops.gelu_forward(before, exact)


def gelu_gradient(d_MK: Tensor, weight_KN: Tensor, before_MN: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return the gradient before gelu, [M, N], and its sum over M, fp32 [N]; ``d``, weight: of the layer after gelu."""
    if not exact and (gemm := _transformer_engine(d_MK)):
        gradient, *_ = gemm(weight_KN, d_MK, layout="NN", gelu=True, gelu_in=before_MN, grad=True)
        return gradient, ops.column_sums(gradient)
    return ops.gelu_backward(d_MK @ weight_KN, before_MN, exact)


def add_weight_gradient(main_NK: Tensor, d_MN: Tensor, x_MK: Tensor, accumulate: bool) -> None:
    """Add ``d.T @ x`` to ``main``, or overwrite it; ``main`` may have another dtype, and sums are fp32."""
    if gemm := _transformer_engine(d_MN):
        gemm(x_MK, d_MN, layout="NT", out_dtype=main_NK.dtype, out=main_NK, accumulate=accumulate, grad=True)
    elif d_MN.is_cuda and main_NK.dtype != d_MN.dtype:
        beta = int(accumulate)
        torch.addmm(main_NK, d_MN.t(), x_MK, beta=beta, out_dtype=main_NK.dtype, out=main_NK)
    else:
        main_NK.addmm_(d_MN.t().to(main_NK.dtype), x_MK.to(main_NK.dtype), beta=int(accumulate))
