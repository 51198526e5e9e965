"""Choice of a run's attention back end: made once at the start, and logged with the reason against a faster one."""

import os
from dataclasses import dataclass, replace

import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.attention import flash4
from megatron_octo.model.attention.packed_attention import DocumentAttention, FlashAttention, flash_available
from megatron_octo.model.platform.mcore import using_transformer_engine

_NEED_A_GPU = {"te": "Transformer Engine", "flash4": "FlashAttention-4"}


@dataclass(frozen=True)
class Backend:
    """An attention back end.

    Attributes:
        name: te, flash4, flash or unfused.
        description: For log lines.
        transformer_engine: Whether it is Transformer Engine's.
        core_attention: Its module; None for Transformer Engine's.
        remark: Why it is not another one.
    """

    name: str
    description: str
    transformer_engine: bool
    core_attention: type | None
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.description}; {self.remark}" if self.remark else self.description

    def noting(self, remark: str) -> "Backend":
        """Return the same back end with a further remark."""
        return replace(self, remark=f"{self.remark}; {remark}" if self.remark else remark)


class NoFusedAttentionError(OctoError):
    """Raised if Transformer Engine is installed but has no fused attention for this model and machine."""


def choose_backend(model: ModelConfig, compute: Compute, device: torch.device) -> Backend:
    """Choose the back end for this machine.

    Raises:
        OctoError: The requested one cannot run here, or ``auto`` finds only unfused attention on a GPU.
    """
    wanted = compute.attention
    if device.type == "cpu":
        if wanted in _NEED_A_GPU:
            raise OctoError(f"{_NEED_A_GPU[wanted]} needs a GPU", where="system.attention", hint="use auto or torch")
        text = "torch scaled_dot_product_attention, document by document (CPU)"
        return Backend("unfused", text, False, DocumentAttention)
    if wanted == "unfused":
        text = "torch scaled_dot_product_attention, document by document: slow, asked for by the recipe"
        return Backend("unfused", text, False, DocumentAttention)
    if wanted == "te":
        return _transformer_engine(model, compute)
    if wanted == "torch":
        return _torch(model, compute)
    engine = using_transformer_engine()
    # In megatron-core's layers Transformer Engine's attention comes with its other modules, which save more time.
    if wanted == "auto" and not (flash4.LIBRARY.installed and (compute.fused or not engine)):
        return _without_flash4(model, compute, engine)
    why_not = flash4.why_not(model, compute)
    if not why_not:
        return Backend("flash4", f"FlashAttention-4 ({flash4.LIBRARY})", False, flash4.Flash4Attention)
    if wanted == "flash4":
        raise OctoError(f"no FlashAttention-4: {why_not}", where="system.attention", hint="use auto")
    return _without_flash4(model, compute, engine).noting(f"not FlashAttention-4: {why_not}")


def _without_flash4(model: ModelConfig, compute: Compute, engine: bool) -> Backend:
    """Return Transformer Engine's attention if it is installed, else torch's."""
    if not engine:
        return _torch(model, compute)
    try:
        return _transformer_engine(model, compute)
    except NoFusedAttentionError as error:
        torch_can = compute.precision == "bf16" and not model.attention_dropout
        if not (compute.deterministic and torch_can):
            raise
        # On Hopper cuDNN's deterministic gradients of long documents take memory quadratic in the length.
        return _torch(model, compute).noting(
            f"not Transformer Engine's, which does not run deterministically here ({error})"
        )


def _torch(model: ModelConfig, compute: Compute) -> Backend:
    """Return torch's flash attention.

    Raises:
        OctoError: It cannot run this model.
    """
    problem = None
    if model.attention_dropout:
        problem = f"without Transformer Engine it has no dropout (attention_dropout {model.attention_dropout})"
    elif compute.precision != "bf16":
        problem = f"without Transformer Engine it has no {compute.precision}"
    elif not flash_available():
        problem = f"torch {torch.__version__} has no variable-length flash attention (2.11 has)"
    if problem:
        raise OctoError(
            f"no fused attention: {problem}",
            where="system.attention",
            hint="install Transformer Engine (pip install -e .[gpu]), change the recipe, "
            "or ask for the slow one with system.attention=unfused",
        )
    return Backend("flash", "torch variable-length flash attention", False, FlashAttention)


def _transformer_engine(model: ModelConfig, compute: Compute) -> Backend:
    if model.sliding_window and model.attention_dropout:
        raise OctoError(
            "no fused attention has both a sliding window and dropout",
            where="system.attention",
            hint="set model.attention_dropout=0.0, or ask for the slow one with system.attention=unfused",
        )
    # Without this Transformer Engine replaces a failing kernel by an s x s softmax that runs out of memory.
    # Megatron-core sets the same three for AttnBackend.fused (gpt.py) and refuses other values.
    os.environ.update(NVTE_FLASH_ATTN="0", NVTE_FUSED_ATTN="1", NVTE_UNFUSED_ATTN="0")
    try:
        import transformer_engine as te
    except ImportError as error:
        raise OctoError(
            f"Transformer Engine cannot be imported: {error}",
            where="system.attention",
            hint="pip install -e .[gpu]",
        ) from None
    kernel = _probe_transformer_engine(model, compute)
    return Backend("te", f"Transformer Engine {te.__version__}, {kernel}", True, None)


def _probe_transformer_engine(model: ModelConfig, compute: Compute) -> str:
    """Run one small attention with the model's shapes, and return the name of the kernel Transformer Engine chose."""
    seq_length, tensor = compute.seq_length, compute.layout.tensor
    from transformer_engine.pytorch import DotProductAttention
    from transformer_engine.pytorch.attention.dot_product_attention import dot_product_attention as module

    dtype = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    heads = model.num_attention_heads // tensor
    groups = max(1, model.num_query_groups // tensor)
    attention = DotProductAttention(
        heads,
        model.head_dim,
        num_gqa_groups=groups,
        attention_dropout=model.attention_dropout,
        qkv_format="thd",
        attn_mask_type="padding_causal",
        window_size=(model.sliding_window - 1, 0) if model.sliding_window else None,
    )
    query = torch.randn(seq_length, heads, model.head_dim, dtype=dtype, device="cuda", requires_grad=True)
    key = torch.randn(seq_length, groups, model.head_dim, dtype=dtype, device="cuda", requires_grad=True)
    # The deterministic kernel's memory grows with the number of documents, so it may fail with many only.
    documents = min(64, seq_length) if compute.deterministic else 2
    boundaries = torch.linspace(0, seq_length, documents + 1, device="cuda").to(torch.int32)
    try:
        output = attention(
            query,
            key,
            key,
            cu_seqlens_q=boundaries,
            cu_seqlens_kv=boundaries,
            max_seqlen_q=seq_length,
            max_seqlen_kv=seq_length,
        )
        output.sum().backward()
    except (RuntimeError, ValueError, AssertionError) as error:
        raise NoFusedAttentionError(
            f"Transformer Engine has no fused attention for this model and machine: {str(error).splitlines()[0]}",
            where="system.attention",
            hint="it needs the cuDNN that came with torch (set CUDNN_HOME to it); NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 "
            "prints why; system.attention=torch does without it",
        ) from None
    chosen = module._attention_backends
    if not chosen["use_fused_attention"]:
        raise NoFusedAttentionError("Transformer Engine chose an unfused attention", where="system.attention")
    return f"cuDNN {torch.backends.cudnn.version()} fused attention ({chosen['fused_attention_backend']})"
