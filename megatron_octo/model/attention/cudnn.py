"""cuDNN's attention of packed documents without Transformer Engine, through NVIDIA's ``nvidia-cudnn-frontend``.

Query heads share keys and values as they are, windows are the kernel's, and its backward pass can be deterministic.
"""

import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.attention import probe
from megatron_octo.model.attention.packed import LibraryAttention

LIBRARY = probe.Library("nvidia-cudnn-frontend", "cudnn", "1.32")
DOCUMENTS = 32


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
    """Causal attention inside each document: [tokens, heads, head dim].

    Args:
        boundaries: int32 [documents + 1], cumulative lengths.
        longest: an upper bound of the lengths. cuDNN prepares a graph for each bound and each number of documents, in
            tens of milliseconds, and the library keeps 128 of them: there should be few bounds.
        window: how many tokens a position sees, itself included.
    """
    mask = {
        "is_causal": True,
        # cuDNN's left bound counts the position, too. What no document is longer than hides nothing.
        "window_left": window if window and window < longest else -1,
        "max_seqlen_q": longest,
        "max_seqlen_kv": longest,
    }
    attended: Tensor = _Attention.apply(
        query_THD, key_TGD, value_TGD, with_empty_documents(boundaries), scale, mask, deterministic
    )
    return attended


class CudnnAttention(LibraryAttention):
    """cuDNN's attention of packed documents (CUDA, bf16). It knows no dropout."""

    attend = staticmethod(attend)


def with_empty_documents(boundaries: Tensor) -> Tensor:
    """The boundaries with empty documents at the end, so that there is a multiple of 32 (for few graphs).

    cuDNN passes over sequences of no tokens; Transformer Engine fills its batches up in the same way.
    """
    missing = -(boundaries.numel() - 1) % DOCUMENTS
    return torch.cat((boundaries, boundaries[-1:].expand(missing))) if missing else boundaries


class _Attention(torch.autograd.Function):
    # Not the gradient that the library registers: that one is deterministic by torch's switch, this by the recipe,
    # for which the memory that it takes was looked at (why_not).

    @staticmethod
    def forward(
        ctx: Any,
        query_THD: Tensor,
        key_TGD: Tensor,
        value_TGD: Tensor,
        boundaries: Tensor,
        scale: float,
        mask: dict[str, Any],
        deterministic: bool,
    ) -> Tensor:
        _operations()
        # Of keys that lie between others the library's backward pass (1.32) reads the wrong ones.
        query_THD, key_TGD, value_TGD = (part.contiguous() for part in (query_THD, key_TGD, value_TGD))
        out_THD, lse_TH1 = torch.ops.cudnn.sdpa_fwd(
            query_THD,
            key_TGD,
            value_TGD,
            scale,
            cu_seqlens_q=boundaries,
            cu_seqlens_kv=boundaries,
            return_lse=True,
            **mask,
        )
        ctx.save_for_backward(query_THD, key_TGD, value_TGD, out_THD, lse_TH1, boundaries)
        ctx.scale, ctx.mask, ctx.deterministic = scale, mask, deterministic
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:
        query_THD, key_TGD, value_TGD, out_THD, lse_TH1, boundaries = ctx.saved_tensors
        # fp32 [documents, heads, longest, 1] for the time of this call, 134 MB at 256 documents, 16 heads and 8192; the
        # kernel's workspace has the same once more.
        lse_BHS1 = _operations().thd_lse_to_padded(lse_TH1.squeeze(2), boundaries, ctx.mask["max_seqlen_q"])
        gradients = torch.ops.cudnn.sdpa_bwd(
            grad_THD,
            query_THD,
            key_TGD,
            value_TGD,
            out_THD,
            lse_BHS1,
            ctx.scale,
            cu_seqlens_q=boundaries,
            cu_seqlens_kv=boundaries,
            is_deterministic=ctx.deterministic,
            **ctx.mask,
        )
        return *gradients, None, None, None, None


def describe() -> str:
    return f"cuDNN {torch.backends.cudnn.version()} attention through {LIBRARY}"


def _operations() -> Any:
    """The library's module; importing it registers ``torch.ops.cudnn``."""
    import cudnn.sdpa.fwd.torch_op as module

    return module


def why_not(model: ModelConfig, compute: Compute) -> str | None:
    """The reason why cuDNN's attention cannot be taken on this GPU; None if it can."""

    def obstacle() -> str | None:
        _operations()
        return _no_determinism() if compute.deterministic else None

    return LIBRARY.why_not(model, compute, attend, obstacle)


def _no_determinism() -> str | None:
    """Deterministic gradients on Hopper take memory of length x length, until cuDNN 9.25, and there unless told so."""
    if torch.cuda.get_device_capability()[0] != 9:
        return None
    if torch.backends.cudnn.version() < 92500:
        return "on Hopper deterministic gradients take cuDNN 9.25, or memory of document length squared"
    os.environ["CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT"] = "0"
    return None
