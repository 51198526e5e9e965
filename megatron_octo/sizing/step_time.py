"""Time of a training step, by a model of where it goes: matrix products, memory, communication, pipeline bubble."""

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing import flops
from megatron_octo.sizing.gpus import GPUS, Gpu
from megatron_octo.sizing.memory import trained_parameters


@dataclass(frozen=True)
class _Layers:
    """Constants of an implementation of the layers, fitted to the rows of ``benchmarks/results/throughput.jsonl``.

    Attributes:
        matmul: share of the peak that wide matrices reach; ``narrow`` is the hidden size at which half of it is left.
        start: seconds per layer for starts and tails of its kernels, forward and backward, whatever their size.
        nvlink: share of its bandwidth, as far as it is not hidden.
        passes: reads and writes, forward and backward, of the hidden state, the FFN's activations, attention's and the
            logits, beside the matrix products.
        gradient: bytes per parameter to add the gradients of a micro-batch to the others.
    """

    matmul: float
    narrow: float
    start: float
    nvlink: float
    passes: tuple[int, int, int, int]
    gradient: int


_FUSED = _Layers(0.66, 200, 0.2e-3, 1.0, (8, 2, 4, 3), 8)
_MCORE = _Layers(0.70, 0, 1.4e-3, 0.45, (16, 6, 6, 12), 12)
# Speed of the matrix products with other kernels than Transformer Engine's in bf16, from the same rows.
_ATTENTION = {"flash4": 1.06, "torch": 0.90, "unfused": 0.50}
_QUACK, _FP8 = 1.05, 1.26
_MEMORY = 0.80  # share of the memory's bandwidth
_NETWORK = 40e9  # bytes/s per GPU between nodes: 400 Gb/s InfiniBand, in use
# Seconds per token, layer and hidden unit that dropout costs on an H100 (1082 - 1002 ms for 65,536 x 24 x 2048).
_DROPOUT = 2.5e-11
_RECOMPUTED = {"none": 0.0, "mlp": 0.22, "full": 0.33}  # share of a step's operations


@functools.cache
def _documents(mean: int, seq_length: int) -> list[int]:
    """Return a thousand lengths, distributed as those of source files (lognormal, sigma 1), cut to rows."""
    normal, pieces = NormalDist(), []
    for number in range(1000):
        length = max(1, round(mean * math.exp(normal.inv_cdf((number + 0.5) / 1000) - 0.5)))
        pieces += [seq_length] * (length // seq_length)
        pieces += [length % seq_length] if length % seq_length else []
    return pieces


def step_flops(recipe: Recipe, mean_document: int, frozen: bool = True) -> int:
    """Return the model FLOPs of a global batch of packed rows; ``frozen``: count frozen weights of a LoRA as such."""
    positions = recipe.batch.global_size * recipe.data.seq_length
    documents = _documents(mean_document, recipe.data.seq_length)
    squared = positions * flops.squared_lengths(documents, recipe.model.sliding_window) // sum(documents)
    return flops.training_flops(recipe.model, positions, squared, recipe.lora if frozen else None)


def _matmul_speed(recipe: Recipe, gpu: Gpu) -> float:
    """Return the FLOP/s of the matrix products; QuACK is installed with FlashAttention-4, so ``auto`` takes both."""
    compute, hidden = recipe.compute, recipe.model.hidden_size
    layers = _FUSED if compute.fused else _MCORE
    speed = layers.matmul * hidden / (hidden + layers.narrow) * gpu.peak * _ATTENTION.get(compute.attention, 1.0)
    if compute.fp8 != "none":
        return speed * _FP8
    usual = "quack" if compute.attention == "flash4" else "plain"
    mlp = usual if compute.mlp == "auto" else compute.mlp
    return speed * (_QUACK if compute.fused and mlp == "quack" else 1.0)


def step_seconds(recipe: Recipe, gpu: Gpu, ranks: int, per_node: int, mean_document: int) -> float:
    """Return the seconds of a step on ``ranks`` GPUs, ``per_node`` of them on one node.

    Documents have ``mean_document`` tokens; attention sees one at a time.
    """
    model, compute, layout = recipe.model, recipe.compute, recipe.parallel.layout
    tokens, tensor, stages, size = compute.micro_tokens, layout.tensor, layout.pipeline, compute.element_bytes
    replicas = max(1, ranks // layout.model_ranks)
    micro = max(1.0, recipe.batch.global_size / (replicas * recipe.batch.micro_size))
    hidden, ffn, layers = model.hidden_size, model.ffn_hidden_size, model.num_layers / stages
    share, kind = layout.token_ranks, _FUSED if compute.fused else _MCORE

    operations = step_flops(recipe, mean_document)
    operations += int(_RECOMPUTED[compute.recompute] * step_flops(recipe, mean_document, frozen=False))
    multiply = operations / (micro * layout.model_ranks * replicas) / _matmul_speed(recipe, gpu)

    over_hidden, over_ffn, over_heads, over_logits = kind.passes
    passes = over_hidden * hidden / share + (over_ffn * ffn + over_heads * hidden) / tensor
    passes = layers * passes + over_logits * model.padded_vocab_size / tensor / stages
    held = trained_parameters(model, compute, 0)
    memory = (tokens * size * passes + held * kind.gradient) / (_MEMORY * gpu.bandwidth)
    if model.hidden_dropout or model.attention_dropout:
        memory += tokens * layers * hidden / share * _DROPOUT * GPUS["h100"].bandwidth / gpu.bandwidth

    # Forward and backward: four times all tokens' hidden states there and back, and once more for the weights.
    each = tokens * size * hidden * (tensor - 1) / tensor
    talk = 10 * layers * each / (kind.nvlink * gpu.nvlink if tensor <= per_node else _NETWORK)

    step = (multiply + memory + talk + layers * kind.start) * (micro + stages - 1)
    optimizer = held * (4 + 4 + 2 + 28 / replicas) / (_MEMORY * gpu.bandwidth)
    wire = _NETWORK if ranks > per_node else kind.nvlink * gpu.nvlink
    reduce = held * (4 + size) * (replicas - 1) / replicas / wire
    # Overlapped with the last backward pass and the next forward one, it still shows in part.
    hidden_part = 0.8 * min(reduce, multiply) if recipe.system.overlap else 0.0
    return step + optimizer + reduce - hidden_part
