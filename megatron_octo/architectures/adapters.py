"""Parameters that LoRA adds to a model: names, shapes, and the axis on which tensor parallelism cuts them.

LoRA (arXiv 2106.09685) freezes a linear layer's weight W and learns a difference of low rank:
``y = W x + alpha / rank * B A x`` with A [rank, in] and B [out, rank]. B starts at zero, so training starts at the
frozen model.
"""

import functools
from dataclasses import dataclass

from megatron_octo.architectures import adapted_modules
from megatron_octo.architectures.parameters import ParameterSpec, parameter_specs
from megatron_octo.config.model import LoraConfig, ModelConfig

A_SUFFIX, B_SUFFIX = ".lora.a", ".lora.b"


@dataclass(frozen=True)
class AdapterSpec:
    """The pair of matrices added to one weight.

    Attributes:
        module: the adapted linear layer, ``decoder.layers.0.mlp.linear_fc2``.
        a: [rank, in]; cut like the weight's columns.
        b: [out, rank]; cut like the weight's rows.
    """

    module: str
    a: ParameterSpec
    b: ParameterSpec


@functools.cache
def adapter_specs(model: ModelConfig, lora: LoraConfig) -> dict[str, AdapterSpec]:
    """Return all adapters by the name of the adapted weight, in the order of the network."""
    targets = tuple(f".{module}.weight" for module in adapted_modules(model, lora))
    found = {}
    for name, weight in parameter_specs(model).items():
        if not name.endswith(targets):
            continue
        module = name.removesuffix(".weight")
        out, columns = weight.shape
        cut_a, cut_b = (1 if weight.axis == 1 else None), (0 if weight.axis == 0 else None)
        a = ParameterSpec(module + A_SUFFIX, (lora.rank, columns), cut_a, "fan_in", lora.rank)
        b = ParameterSpec(module + B_SUFFIX, (out, lora.rank), cut_b, "zeros", out, weight.parts)
        found[name] = AdapterSpec(module, a, b)
    return found


def adapter_parameters(model: ModelConfig, lora: LoraConfig) -> dict[str, ParameterSpec]:
    """Return the parameters of all adapters by name."""
    return {spec.name: spec for pair in adapter_specs(model, lora).values() for spec in (pair.a, pair.b)}


def count_adapter_parameters(model: ModelConfig, lora: LoraConfig) -> int:
    """Count the parameters that LoRA trains, over all ranks."""
    return sum(spec.shape[0] * spec.shape[1] for spec in adapter_parameters(model, lora).values())
