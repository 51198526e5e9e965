"""Model sections that several tests use: two published shapes, and a small one to change."""

from typing import Any

from megatron_octo.config.model import ModelConfig

STARCODER = ModelConfig(
    num_layers=40,
    hidden_size=6144,
    num_attention_heads=48,
    ffn_hidden_size=24576,
    max_position_embeddings=8192,
    vocab_size=49152,
)
SANTACODER = ModelConfig(
    num_layers=24,
    hidden_size=2048,
    num_attention_heads=16,
    ffn_hidden_size=8192,
    max_position_embeddings=2048,
    vocab_size=49280,
)


def small_model(**changes: Any) -> ModelConfig:
    """GPTBigCode with two layers of 32, and what is to be different."""
    shape = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "ffn_hidden_size": 96,
        "max_position_embeddings": 64,
        "vocab_size": 100,
    }
    return ModelConfig.model_validate({**shape, **changes})
