"""Which layers and which attention a run uses. The choice is made once, said aloud, and never falls back in silence."""

import os
from dataclasses import dataclass, replace

import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.model.attention import flash4
from megatron_octo.model.attention.packed import DocumentAttention, FlashAttention, flash_available
from megatron_octo.model.layer_choice import use_fused_layers
from megatron_octo.model.platform.mcore import using_transformer_engine
from megatron_octo.recipe.schema import Recipe

_NEED_A_GPU = {"te": "Transformer Engine", "flash4": "FlashAttention-4"}


@dataclass(frozen=True)
class Backend:
    """Attributes: name (te, flash4, cudnn, flash, unfused), description, Transformer Engine or not, and a remark: why
    it is not another."""

    name: str
    description: str
    transformer_engine: bool
    core_attention: type | None  # None: Transformer Engine's
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.description}; {self.remark}" if self.remark else self.description

    def noting(self, remark: str) -> "Backend":
        return replace(self, remark=f"{self.remark}; {remark}" if self.remark else remark)


class NoFusedAttentionError(OctoError):
    """Transformer Engine is there, and has no fused attention for this model and machine."""


def choose_backend(recipe: Recipe, device: torch.device) -> Backend:
    """The back end for this machine.

    Raises:
        OctoError: what the recipe asks for cannot run here, or only unfused on a GPU.
    """
    wanted = recipe.system.attention
    if device.type == "cpu":
        if wanted in _NEED_A_GPU:
            raise OctoError(
                f"{_NEED_A_GPU[wanted]} needs a GPU", where="system.attention", hint="use auto or torch"
            )
        text = "torch scaled_dot_product_attention, document by document (CPU)"
        return Backend("unfused", text, False, DocumentAttention)
    if wanted == "unfused":
        text = "torch scaled_dot_product_attention, document by document: slow, asked for by the recipe"
        return Backend("unfused", text, False, DocumentAttention)
    if wanted == "te":
        return _transformer_engine(recipe)
    if wanted == "torch":
        return _torch(recipe)
    engine = using_transformer_engine()
    # In megatron-core's layers Transformer Engine's attention comes with its other modules, which are worth more.
    if wanted == "auto" and not (flash4.LIBRARY.installed and (use_fused_layers(recipe) or not engine)):
        return _without_flash4(recipe, engine)
    why_not = flash4.why_not(recipe)
    if not why_not:
        return Backend("flash4", f"FlashAttention-4 ({flash4.LIBRARY})", False, flash4.Flash4Attention)
    if wanted == "flash4":
        raise OctoError(f"no FlashAttention-4: {why_not}", where="system.attention", hint="use auto")
    return _without_flash4(recipe, engine).noting(f"not FlashAttention-4: {why_not}")


def _without_flash4(recipe: Recipe, engine: bool) -> Backend:
    """Transformer Engine's attention if that is there, else torch's."""
    if not engine:
        return _torch(recipe)
    try:
        return _transformer_engine(recipe)
    except NoFusedAttentionError as error:
        torch_can = recipe.train.precision == "bf16" and not recipe.model.attention_dropout
        if not (recipe.system.deterministic and torch_can):
            raise
        # On Hopper cuDNN's deterministic gradients of long documents take memory of length squared.
        return _torch(recipe).noting(
            f"not Transformer Engine's, which does not run deterministically here ({error})"
        )


def _torch(recipe: Recipe) -> Backend:
    """Return torch's flash attention.

    Raises:
        OctoError: it cannot run this recipe.
    """
    problem = None
    if recipe.model.attention_dropout:
        problem = f"without Transformer Engine it has no dropout (attention_dropout {recipe.model.attention_dropout})"
    elif recipe.train.precision != "bf16":
        problem = f"without Transformer Engine it has no {recipe.train.precision}"
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


def _transformer_engine(recipe: Recipe) -> Backend:
    if recipe.model.sliding_window and recipe.model.attention_dropout:
        raise OctoError(
            "no fused attention has both a sliding window and dropout",
            where="system.attention",
            hint="set model.attention_dropout=0.0, or ask for the slow one with system.attention=unfused",
        )
    # Without this Transformer Engine answers a failing kernel with an s x s softmax that runs out of memory.
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
    kernel = _probe_transformer_engine(recipe)
    return Backend("te", f"Transformer Engine {te.__version__}, {kernel}", True, None)


def _probe_transformer_engine(recipe: Recipe) -> str:
    """Run one small attention as the model will, and name the kernel that Transformer Engine took."""
    model, seq_length, tensor = recipe.model, recipe.data.seq_length, recipe.parallel.tensor
    from transformer_engine.pytorch import DotProductAttention
    from transformer_engine.pytorch.attention.dot_product_attention import dot_product_attention as module

    dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
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
    # What is deterministic with few documents may not be with many: its memory grows with them.
    documents = min(64, seq_length) if recipe.system.deterministic else 2
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
