"""A small attention: megatron-core's configuration as the core attentions read it, and the reference."""

from typing import Any

import torch

from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.recipe.schema import Recipe

HEADS, HEAD_DIM, TOKENS = 4, 8, 40


def given(recipe: Recipe) -> tuple[ModelConfig, Compute]:
    """What models and the formulas of their size take of a recipe."""
    return recipe.model, recipe.compute


def attention_config(groups: int, window: int | None = None, deterministic: bool = False) -> Any:
    """``window``: tokens that a position sees, itself included."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(
        num_layers=1,
        hidden_size=HEADS * HEAD_DIM,
        num_attention_heads=HEADS,
        num_query_groups=groups,
        attention_dropout=0.0,
        window_size=(window - 1, 0) if window else None,
    )
    config.deterministic_mode = deterministic
    return config


def check_beside_documents(
    kind: type,
    boundaries: list[int],
    groups: int,
    window: int | None,
    base: float | None,
    deterministic: bool,
) -> None:
    """One kind of attention beside the one that goes document by document: outputs and gradients."""
    from megatron_octo.model.attention.packed_attention import DocumentAttention, packed_params
    from megatron_octo.model.attention.rotary import Rotary

    config = attention_config(groups, window, deterministic)
    rotary = Rotary(base, HEAD_DIM, TOKENS) if base else None
    generator = torch.Generator().manual_seed(len(boundaries))
    # Keys and values as views of one tensor, as the layers hand them over.
    query = torch.randn(TOKENS, HEADS, HEAD_DIM, generator=generator, requires_grad=True)
    both = torch.randn(TOKENS, groups, 2 * HEAD_DIM, generator=generator, requires_grad=True)
    packed = packed_params(torch.tensor(boundaries, dtype=torch.int32), 48)
    upstream = torch.randn(query.shape, generator=generator)
    outputs, gradients = [], []
    for attention in (each(config, 1, None, "self", rotary=rotary) for each in (kind, DocumentAttention)):
        output = attention(query, *both.chunk(2, dim=-1), None, packed_seq_params=packed)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output, [query, both], upstream))
    torch.testing.assert_close(*outputs, rtol=0, atol=2e-6)
    for mine, expected in zip(*gradients):
        torch.testing.assert_close(mine, expected, rtol=1e-5, atol=5e-6)


def check_in_the_fused_layers(kind: type, name: str, deterministic: bool = False) -> None:
    """The fused layers' attention with one kind beside that document by document: documents, and whole rows."""
    from megatron_octo.model.attention.backend import Backend
    from megatron_octo.model.attention.packed_attention import DocumentAttention
    from megatron_octo.model.fused.core_attention import CoreAttention, Documents

    query = torch.randn(TOKENS, HEADS * HEAD_DIM, requires_grad=True)
    shared = torch.randn(TOKENS, 2 * HEAD_DIM, requires_grad=True)
    for documents in (
        Documents(torch.tensor([0, 7, 33, 40], dtype=torch.int32), 32),
        Documents(torch.tensor([0, 20, 40], dtype=torch.int32), 20, whole_rows=2),
    ):
        found = []
        for each in (kind, DocumentAttention):
            config = attention_config(1, deterministic=deterministic)
            core = CoreAttention(config, 1, Backend(name, "", False, each), HEADS)
            output = core(query, *shared.chunk(2, dim=1), documents)
            found.append((output, *torch.autograd.grad(output.square().sum(), [query, shared])))
        for mine, expected in zip(*found):
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)
