"""Tables of the architectures: kinds of layers, parameters, and the same tensors' names in Hugging Face models.

Code that computes, reads or writes weights uses them and belongs elsewhere; nothing here imports torch.
"""

import difflib
from collections.abc import Mapping
from typing import Any

from megatron_octo.architectures.base import Architecture
from megatron_octo.architectures.description import LayerDescription
from megatron_octo.architectures.gpt_bigcode import GPTBigCode
from megatron_octo.architectures.starcoder2 import Starcoder2
from megatron_octo.config.model import LoraConfig, ModelConfig

# A new architecture is added to this tuple.
_KNOWN: tuple[Architecture, ...] = (GPTBigCode(), Starcoder2())


def architectures() -> dict[str, Architecture]:
    """Return all architectures by name."""
    return {architecture.name: architecture for architecture in _KNOWN}


def find_architecture(name: str) -> Architecture:
    """Return the architecture of this name.

    Raises:
        ValueError: there is none; the message names the nearest.
    """
    known = architectures()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown architecture {name!r}, known are {', '.join(known)}{hint}")
    return known[name]


def checked_model(section: Mapping[str, Any]) -> ModelConfig:
    """Build a model's shape from a mapping and check it against its architecture.

    Raises:
        ValueError: a value is missing, of a wrong type, or not one that the architecture has.
    """
    model = ModelConfig.model_validate(section)
    find_architecture(model.architecture).check(model)
    return model


def describe_layer(model: ModelConfig) -> LayerDescription:
    """Return what a model's layers consist of."""
    return find_architecture(model.architecture).description


def is_multi_query_gpt(model: ModelConfig) -> bool:
    """Whether a model is a GPT-2 whose heads share one key and value, with tied embeddings and full attention.

    This is what the fused layers compute, and what BigCode's fork of Megatron-LM stores.
    """
    return (
        describe_layer(model) == LayerDescription()
        and model.activation in ("gelu", "gelu_tanh")
        and model.num_query_groups == 1
        and model.sliding_window is None
        and model.tied_embeddings
    )


def adapted_modules(model: ModelConfig, lora: LoraConfig) -> tuple[str, ...]:
    """Return the linear layers of one layer that LoRA adapts, by our names.

    Raises:
        ValueError: a target that the model does not have.
    """
    return find_architecture(model.architecture).select_modules(model, lora.target_modules)
