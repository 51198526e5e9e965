"""Architectures that only tests have: GPTBigCode with other kinds of parts, and a Llama-like layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import megatron_octo.architectures as package
from megatron_octo.architectures.base import Architecture
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.architectures.gpt_bigcode import GPTBigCode
from megatron_octo.config.model import ModelConfig


class RmsGPT(GPTBigCode):
    """GPTBigCode with RMSNorm."""

    name = "rms_gpt"
    description = LayerDescription(norm="rms_norm")


class GatedGPT(GPTBigCode):
    """GPTBigCode with SwiGLU, its biases included."""

    name = "gated_gpt"
    description = LayerDescription(mlp="gated")
    activations = ("silu",)


class LlamaLike(GPTBigCode):
    """RMSNorm, SwiGLU, rotary positions, grouped queries, no bias anywhere."""

    name = "llama_like"
    description = LayerDescription("rms_norm", "gated", "rotary", qkv_bias=False, linear_bias=False)
    activations = ("silu",)

    def check(self, model: ModelConfig) -> None:
        Architecture.check(self, model)


VARIANTS: dict[str, dict[str, Any]] = {
    "rms_gpt": {"architecture": "rms_gpt"},
    "gated_gpt": {"architecture": "gated_gpt", "activation": "silu"},
    "llama_like": {
        "architecture": "llama_like",
        "activation": "silu",
        "rotary_base": 1e4,
        "num_query_groups": 2,
        "tied_embeddings": False,
    },
}


@contextmanager
def known() -> Iterator[None]:
    """Inside, these architectures are the library's, also in processes that are forked."""
    with mock.patch.object(package, "_KNOWN", (*package._KNOWN, RmsGPT(), GatedGPT(), LlamaLike())):
        yield
