"""FlashAttention-4: Dao-AILab's ``flash-attn-4``, which compiles its kernels for the GPU at their first call.

Query heads share keys and values without copies, the kernel applies the window, and the backward pass can be
deterministic with memory linear in the document's length. It has no dropout. Shapes: see :mod:`.packed_attention`.
"""

import functools
import warnings
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.attention.attention_check import relative_error
from megatron_octo.model.attention.packed_attention import PackedAttention
from megatron_octo.model.platform.optional_library import Library

LIBRARY = Library("flash-attn-4", "flash4", "4.0.0b36")


def attend(
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    boundaries: Tensor,
    longest: int,
    *,
    scale: float,
    window: int | None,
    deterministic: bool,
) -> Tensor:
    """Compute causal attention inside each document: [T, H, D], bf16.

    ``boundaries`` are cumulative lengths, int32 [documents + 1], ``longest`` an upper bound of the lengths, ``window``
    the tokens that a position sees, itself included.
    """
    attended: Tensor = _library().flash_attn_varlen_func(
        query_THD,
        key_TGD,
        value_TGD,
        cu_seqlens_q=boundaries,
        cu_seqlens_k=boundaries,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        **_options(scale, window, deterministic),
    )[0]
    return attended


class Flash4Attention(PackedAttention):
    """FlashAttention-4 of packed documents, or of rows that are one document each (CUDA, bf16)."""

    def _attend(self, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, packed: PackedSeqParams) -> Tensor:
        return attend(
            query_THD,
            key_TGD,
            value_TGD,
            packed.cu_seqlens_q,
            packed.max_seqlen_q,
            scale=self.scale,
            window=self.window,
            deterministic=self.config.deterministic_mode,
        )

    def attend_rows(self, query_BSHD: Tensor, key_BSGD: Tensor, value_BSGD: Tensor) -> Tensor:
        """Compute causal attention of B whole rows of S tokens: [B, S, H, D], bf16."""
        options = _options(self.scale, self.window, self.config.deterministic_mode)
        attended: Tensor = _library().flash_attn_func(query_BSHD, key_BSGD, value_BSGD, **options)[0]
        return attended


def _options(scale: float, window: int | None, deterministic: bool) -> dict[str, Any]:
    # The library's left bound does not count the position itself.
    left = window - 1 if window else None
    return {
        "softmax_scale": scale,
        "causal": True,
        "window_size": (left, 0 if window else None),
        "deterministic": deterministic,
    }


@functools.cache
def _library() -> Any:
    # Its compiler warns about arguments that the library itself leaves out.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"cutlass\.")
    import flash_attn.cute

    return flash_attn.cute


def why_not(model: ModelConfig, compute: Compute) -> str | None:
    """Return why FlashAttention-4 cannot be used on this GPU, or None."""
    if model.attention_dropout:
        return f"{LIBRARY.package} has no dropout (attention_dropout {model.attention_dropout})"
    if compute.precision != "bf16":
        return f"{LIBRARY.package} has no {compute.precision}"

    def obstacle() -> str | None:
        major, minor = torch.cuda.get_device_capability()
        return None if major >= 9 else f"{LIBRARY} has no backward pass for sm_{major}{minor}"

    def measure() -> float:
        options: dict[str, Any] = {"window": model.sliding_window, "deterministic": compute.deterministic}
        attention = functools.partial(attend, scale=model.head_dim**-0.5, **options)
        return relative_error(model, compute, attention)

    return LIBRARY.examine(obstacle, measure)
