"""Floating-point operations of training, and peaks of GPUs."""

import functools
import math
from collections.abc import Iterable

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import LAYER_PREFIX, parameter_specs
from megatron_octo.config.model import LoraConfig, ModelConfig

# Dense bf16 peak of one GPU in FLOP/s, from the vendors' datasheets (no sparsity).
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "B200": 2250e12}

FORMULA = (
    "FLOPs = 3 * (T * (2P + 2hV) + 2Lh * sum(n_i^2)): forward and twice that backward, T positions, P weights of the "
    "layers' matrices, L layers, hidden h, vocabulary V, documents of n_i positions with causal attention counted half "
    "(under a sliding window w, n_i^2 - (n_i-w)^2 for the longer ones); recomputation is not counted"
)

LORA_FORMULA = "with frozen weights their factor is 2, not 3; adapters add 3 * 2 T for each of their parameters"


def squared_lengths(lengths: Iterable[int], window: int | None) -> int:
    """Return twice the pairs of positions that attention computes: n^2 per document, minus pairs beyond the window."""
    return sum(n * n - (max(0, n - window) ** 2 if window else 0) for n in map(int, lengths))


@functools.cache
def _matrix_weights(config: ModelConfig) -> int:
    """Count the weights of all layers' matrices."""
    specs = parameter_specs(config).values()
    layers = (spec for spec in specs if spec.name.startswith(LAYER_PREFIX) and len(spec.shape) == 2)
    return sum(math.prod(spec.shape) for spec in layers)


def training_flops(config: ModelConfig, positions: int, squared_lengths: int, lora: LoraConfig | None = None) -> int:
    """Return the model FLOPs of a step (see :data:`FORMULA`, and :data:`LORA_FORMULA` with adapters).

    ``positions`` include padding; ``squared_lengths`` come from the function of that name.
    """
    linear = 2 * positions * (_matrix_weights(config) + config.hidden_size * config.vocab_size)
    attention = 2 * config.num_layers * config.attention_size * squared_lengths
    if lora:
        adapters = 2 * positions * count_adapter_parameters(config, lora)
        return 2 * linear + 3 * (adapters + attention)
    return 3 * (linear + attention)


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a GPU by its name ("NVIDIA H100 80GB HBM3"), or None."""
    return next((peak for key, peak in PEAK_FLOPS.items() if key in device_name), None)
