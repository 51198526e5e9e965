"""Changes of dtype, and the differences that they make."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError


@dataclass
class Rounding:
    """Differences over all values that changed their dtype.

    Attributes:
        dtype: the new one; None if no value changed its dtype.
        max_abs: largest difference, and the tensor that has it.
        max_rel: largest difference relative to the value, of those that did not become zero.
        to_zero: values that were not zero and are now.
    """

    dtype: str | None = None
    max_abs: float = 0.0
    tensor: str | None = None
    max_rel: float = 0.0
    to_zero: int = 0
    values: int = 0

    def convert(self, name: str, block: Tensor, dtype: torch.dtype) -> Tensor:
        """Return ``block`` in another dtype and count the differences.

        Raises:
            OctoError: a finite value became infinite.
        """
        if block.dtype == dtype or not block.is_floating_point():
            return block
        self.dtype = str(dtype).removeprefix("torch.")
        rounded = block.to(dtype)
        exact, after = block.double(), rounded.double()
        overflown = after.isinf() & exact.isfinite()
        if bool(overflown.any()):
            raise OctoError(
                f"{name}: {float(exact[overflown].abs().max()):.4g} is too large for {self.dtype} "
                f"({int(overflown.sum())} values of the block)",
                hint="bf16 has the range of fp32",
            )
        difference = (after - exact).abs_()
        largest = float(difference.max()) if difference.numel() else 0.0
        if largest > self.max_abs:
            self.max_abs, self.tensor = largest, name
        zero = (after == 0) & (exact != 0)
        relative = difference.div_(exact.abs()).masked_fill_((exact == 0) | zero, 0.0)
        self.max_rel = max(self.max_rel, float(relative.max()) if relative.numel() else 0.0)
        self.to_zero += int(zero.sum())
        self.values += block.numel()
        return rounded

    def __str__(self) -> str:
        if self.dtype is None:
            return "every value as it was"
        lost = f", {self.to_zero:,} values became zero" if self.to_zero else ""
        where = f" in {self.tensor}" if self.tensor else ""
        largest = f"largest difference {self.max_abs:.3g}{where}, relative {self.max_rel:.3g}"
        return f"rounded to {self.dtype}: {largest}{lost}"

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON values."""
        return asdict(self)
