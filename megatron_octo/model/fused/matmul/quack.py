"""The MLP's two products next to gelu on QuACK's kernels, which compute gelu, its gradient and the bias' sum, too.

benchmarks/mlp.py measures the gain.
"""

from typing import Any, override

import torch
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.fused.kernels import torch_reference
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic, Operand
from megatron_octo.model.platform.optional_library import Library, relative

LIBRARY = Library("quack-kernels", "flash4", "0.6.5")
_ROWS = 300  # of the probe: not a multiple of a tile's


class QuackArithmetic(Arithmetic):
    """Matrix products of bf16 tensors on Hopper, with gelu in the epilogues."""

    name = "quack"

    def __init__(self, exact: bool):
        super().__init__(exact)
        self._epilogues = _epilogues()

    @property
    @override
    def description(self) -> str:
        return f"QuACK ({LIBRARY})"

    @override
    def linear_gelu(self, x_MK: Operand, weight_NK: Operand, bias_N: Tensor) -> tuple[Tensor, Operand]:
        found: tuple[Tensor, Tensor] = self._epilogues.linear_gelu(x_MK, weight_NK, bias_N, self.exact)
        return found

    @override
    def gelu_gradient(self, d_MK: Operand, weight_KN: Operand, before_MN: Tensor) -> tuple[Operand, Tensor]:
        found: tuple[Tensor, Tensor] = self._epilogues.gelu_gradient(d_MK, weight_KN, before_MN, self.exact)
        return found


def _epilogues() -> Any:
    from megatron_octo.model.fused.kernels import gelu_epilogues as epilogues

    return epilogues


def why_not(model: ModelConfig, compute: Compute) -> str | None:
    """Return why QuACK cannot be used on this GPU, or None."""
    if compute.precision != "bf16":
        return f"it is used for bf16 alone, not {compute.precision}"

    def obstacle() -> str | None:
        major, minor = torch.cuda.get_device_capability()
        return None if major == 9 else f"it is used on Hopper alone, not on sm_{major}{minor}"

    return LIBRARY.examine(obstacle, lambda: relative_error(model, compute))


def in_fp32(x: Tensor, up: Tensor, bias: Tensor, d: Tensor, down: Tensor, before: Tensor, exact: bool) -> list[Tensor]:
    """Compute the two products in plain torch and fp32.

    Returns:
        Before and after gelu, [M, N]; the gradient before gelu, [M, N], and its sum, [N].
    """
    product = x.float() @ up.float().t() + bias.float()
    gradient, total = torch_reference.gelu_backward(d.float() @ down.float(), before.float(), exact)
    return [product, torch_reference.gelu_forward(product, exact), gradient, total]


@torch.no_grad()
def relative_error(model: ModelConfig, compute: Compute) -> float:
    """Return the largest relative error of both products beside plain torch, with the model's widths; or nan."""
    exact = model.activation == "gelu"
    hidden, inner = model.hidden_size, model.ffn_hidden_size // compute.layout.tensor
    generator = torch.Generator("cuda").manual_seed(0)  # leaves the run's own random numbers alone

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda", generator=generator)

    x, bias, d, before = (
        t.bfloat16() for t in (draw(_ROWS, hidden), draw(inner), draw(_ROWS, hidden), draw(_ROWS, inner))
    )
    up, down = ((draw(*shape) / hidden**0.5).bfloat16() for shape in ((inner, hidden), (hidden, inner)))
    arithmetic = QuackArithmetic(exact)
    found = [*arithmetic.linear_gelu(x, up, bias), *arithmetic.gelu_gradient(d, down, before)]
    expected = in_fp32(x, up, bias, d, down, before, exact)
    return float(torch.stack([relative(mine, its) for mine, its in zip(found, expected, strict=True)]).max())
