"""Parameters of a model by name, and the names that a pipeline stage's modules have for them.

Names are Megatron-core's, with layers numbered through the whole model. The table does not depend on the parallel
layout or on the implementation of the layers; initialisation, checkpoints and conversion use it.
"""

import functools
import math
import re

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.base import (
    LAYER_PREFIX,
    OUTPUT_LAYER,
    POSITION_EMBEDDINGS,
    WORD_EMBEDDINGS,
    ParameterSpec,
)
from megatron_octo.config.layout import Layout
from megatron_octo.config.model import ModelConfig

__all__ = [
    "LAYER_PREFIX",
    "OUTPUT_LAYER",
    "POSITION_EMBEDDINGS",
    "WORD_EMBEDDINGS",
    "ParameterSpec",
    "canonical_name",
    "count_parameters",
    "parameter_specs",
    "stage_of",
]


@functools.cache
def parameter_specs(config: ModelConfig) -> dict[str, ParameterSpec]:
    """Return all parameters by name, in the order of the network, without a tied output layer."""
    return {spec.name: spec for spec in find_architecture(config.architecture).parameters(config)}


def count_parameters(config: ModelConfig, padded: bool = False) -> int:
    """Count a model's parameters, without the padding of the vocabulary unless ``padded``."""
    specs = parameter_specs(config).values()
    return sum((spec.shape[0] if padded else spec.rows) * math.prod(spec.shape[1:]) for spec in specs)


def stage_of(name: str, model: ModelConfig, layout: Layout) -> int:
    """Return the pipeline stage that holds a parameter; of tied embeddings the last one holds a copy."""
    if name.startswith(LAYER_PREFIX):
        return layout.stage_of(int(name.removeprefix(LAYER_PREFIX).partition(".")[0]), model.num_layers)
    return 0 if name.startswith("embedding.") else layout.pipeline - 1


# Transformer Engine has the norm inside the linear layer that follows it.
_FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "self_attention.linear_qkv.layer_norm_bias": "input_layernorm.bias",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
    "mlp.linear_fc1.layer_norm_bias": "pre_mlp_layernorm.bias",
}
# The fused layers have the queries' rows of the fused matrix and the shared key's and value's as two parameters.
_PARTS = re.compile(r"^self_attention\.linear_(q|kv)\.(weight|bias)$")
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.(.+)$")


def canonical_name(local_name: str, first_layer: int, tied: bool = True) -> str:
    """Return the name in :func:`parameter_specs` of a parameter of one pipeline stage.

    Args:
        local_name: name inside the stage's module, under either implementation of the layers.
        first_layer: number of the stage's first layer.
        tied: the output layer is the word embeddings.
    """
    if local_name == OUTPUT_LAYER and tied:
        return WORD_EMBEDDINGS
    if match := _LAYER.match(local_name):
        rest = _FUSED_NORMS.get(match[2], match[2])
        rest = _PARTS.sub(r"self_attention.linear_qkv.\2", rest)
        return f"{LAYER_PREFIX}{int(match[1]) + first_layer}.{rest}"
    return local_name
