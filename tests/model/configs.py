"""Megatron-core's configuration of a small attention, as the core attentions read it."""

from typing import Any

HEADS, HEAD_DIM = 4, 8


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
