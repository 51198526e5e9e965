"""Rotary positions (RoFormer, arXiv 2104.09864) of packed documents: every document starts at position 0.

Attention depends on distances only, but rounding on positions: starting at 0, a document gives the same numbers
anywhere in its row. Transformer Engine's fused rotation does that, too. Megatron-core's unfused one waits for the
device once per document, and does not restart positions where a row is as long as the longest document may be.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Rotates the pairs (i, i + dim / 2) of a head by position x base^(-2i / dim).

    Attributes:
        base: Of the wavelengths.
        dim: Of a head, even.
        length: Number of positions.
    """

    base: float
    dim: int
    length: int

    def tables(self, boundaries: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return cosine and sine for each token: fp32 [T, 1, D].

        Args:
            boundaries: int32 [documents + 1], cumulative lengths.
            tokens: T, the last boundary, known without reading the device.
        """
        starts = torch.repeat_interleave(boundaries[:-1], boundaries.diff(), output_size=tokens)
        positions = torch.arange(tokens, device=boundaries.device) - starts
        cosine, sine = _tables(self, boundaries.device)
        return cosine[positions], sine[positions]


@functools.lru_cache(maxsize=4)
def _tables(rotary: Rotary, device: torch.device) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, rotary.dim, 2, dtype=torch.float32, device=device) / rotary.dim
    angles = torch.outer(torch.arange(rotary.length, dtype=torch.float32, device=device), 1.0 / rotary.base**exponents)
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos(), angles.sin()


def rotate(states_THD: Tensor, cosine_T1D: Tensor, sine_T1D: Tensor) -> Tensor:
    """Rotate queries or keys by their positions, in fp32: [T, H, D] in their own dtype."""
    states = states_THD.float()
    first, second = states.chunk(2, dim=-1)
    turned = states * cosine_T1D + torch.cat((-second, first), dim=-1) * sine_T1D
    return turned.to(states_THD.dtype)
