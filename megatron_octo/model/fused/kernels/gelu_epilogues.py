"""Gelu and its gradient in the epilogues of matrix products: kernels for Hopper, compiled by QuACK at their first call.

The module imports QuACK (Tri Dao's ``quack-kernels``) and with it CUTLASS' compiler, so import it inside a function.
M rows (tokens), N outputs, K inputs.
"""

from collections.abc import Callable
from typing import Any

from quack import activation
from quack.epilogue import gemm_epilogue
from quack.epilogue.ops import RowVecLoad, RowVecReduce
from torch import Tensor


class Named:
    """Identifies a function of an epilogue by its name in QuACK's cache of kernels.

    By default QuACK takes the source of the function and of everything it refers to; QuACK 0.6.5 fails at what the
    decorators of CUTLASS 4.8 refer to.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def __quack_semantic_key__(self) -> str:
        return f"{self.function.__module__}.{self.function.__qualname__}"

    def __call__(self, *values: Any) -> Any:
        """Call the function."""
        return self.function(*values)


tanh_gelu, tanh_gradient = Named(activation.gelu_tanh_approx), Named(activation.dgelu_tanh_approx)
exact_gelu, exact_gradient = Named(activation.gelu_erf), Named(activation.dgelu_erf)


# QuACK compiles these functions from their source: each computes one element of the product, in fp32.


@gemm_epilogue(outputs=("activated",), ops={"bias": RowVecLoad("bias")})
def _tanh_forward(acc, bias):  # type: ignore[no-untyped-def]
    before = acc + bias
    return {"D": before, "activated": tanh_gelu(before)}


@gemm_epilogue(outputs=("activated",), ops={"bias": RowVecLoad("bias")})
def _exact_forward(acc, bias):  # type: ignore[no-untyped-def]
    before = acc + bias
    return {"D": before, "activated": exact_gelu(before)}


@gemm_epilogue(reduces={"total": RowVecReduce("total")})
def _tanh_backward(acc, c):  # type: ignore[no-untyped-def]
    gradient, _ = tanh_gradient(c, acc)
    return {"D": gradient, "total": gradient}


@gemm_epilogue(reduces={"total": RowVecReduce("total")})
def _exact_backward(acc, c):  # type: ignore[no-untyped-def]
    gradient, _ = exact_gradient(c, acc)
    return {"D": gradient, "total": gradient}


def linear_gelu(x_MK: Tensor, weight_NK: Tensor, bias_N: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return ``x @ weight.T + bias``, and gelu of that before it is rounded; both [M, N] in x's dtype."""
    kernel: Any = _exact_forward if exact else _tanh_forward
    out = kernel(x_MK, weight_NK.t(), tuned=False, bias=bias_N)
    return out["D"], out["activated"]


def gelu_gradient(d_MK: Tensor, weight_KN: Tensor, before_MN: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return the gradient before gelu, [M, N], and its sum over M, fp32 [N]; ``d``, weight: of the layer after gelu."""
    kernel: Any = _exact_backward if exact else _tanh_backward
    out = kernel(d_MK, weight_KN, before_MN, tuned=False)
    return out["D"], out["total"]
