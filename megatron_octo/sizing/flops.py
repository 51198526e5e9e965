"""Floating-point operations of training, and the peaks they are held against. Pure arithmetic, no torch."""

from collections.abc import Iterable

from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.config.model import LoraConfig, ModelConfig

# Dense bf16 peak of one GPU in FLOP/s, from the vendors' datasheets (no sparsity).
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "B200": 2250e12}

FORMULA = (
    "FLOPs = 3 * (T * (L*(2h(h+2Gd) + 2hh + 4hf) + 2hV) + 2Lh * sum(n_i^2)): forward and twice that backward, "
    "T positions, L layers, hidden h, G key/value heads of dim d, FFN f, vocabulary V, documents of n_i positions "
    "with causal attention counted half (under a sliding window w, n_i^2 - (n_i-w)^2 for the longer ones); "
    "recomputation is not counted"
)

LORA_FORMULA = (
    "with frozen weights their factor is 2, not 3; adapters add 3 * 2 T for each of their parameters"
)


def squared_lengths(lengths: Iterable[int], window: int | None) -> int:
    """Twice the pairs of positions that attention looks at: a document of n positions has n^2, less what is beyond the
    window.
    """
    return sum(n * n - (max(0, n - window) ** 2 if window else 0) for n in map(int, lengths))


def training_flops(
    config: ModelConfig, positions: int, squared_lengths: int, lora: LoraConfig | None = None
) -> int:
    """Model FLOPs of forward and backward (see :data:`FORMULA`).

    Args:
        positions: T, positions computed, padding included.
        squared_lengths: see :func:`squared_lengths`.
        lora: with adapters, frozen weights have no gradients of their own (see :data:`LORA_FORMULA`).
    """
    hidden = config.hidden_size
    layer = 2 * hidden * config.qkv_size + 2 * hidden * hidden + 4 * hidden * config.ffn_hidden_size
    linear = positions * (config.num_layers * layer + 2 * hidden * config.vocab_size)
    attention = 2 * config.num_layers * hidden * squared_lengths
    if lora:
        adapters = 2 * positions * count_adapter_parameters(config, lora)
        return 2 * linear + 3 * (adapters + attention)
    return 3 * (linear + attention)


def peak_flops(device_name: str) -> float | None:
    """Peak of a GPU by its name ("NVIDIA H100 80GB HBM3"); None where it is not known."""
    return next((peak for key, peak in PEAK_FLOPS.items() if key in device_name), None)
