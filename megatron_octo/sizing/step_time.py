"""Time of a training step: a measured one, carried over to another shape by a model of where the time goes."""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing import flops
from megatron_octo.sizing.gpus import GPUS, Gpu
from megatron_octo.sizing.memory import trained_parameters

PROJECT = Path(__file__).parents[2]
MEASURED = PROJECT / "benchmarks" / "results" / "throughput.jsonl"


@dataclass(frozen=True)
class _Reach:
    """What layers reach of the vendors' figures. Fitted to the rows of throughput.jsonl, the fused layers' to 2 %.

    Attributes:
        matmul: of the peak, for wide matrices; ``narrow`` is the hidden size at which half of it is left.
        layer: seconds of starts and tails of one layer's kernels, forward and backward, whatever its size.
        nvlink: of its bandwidth, as far as it is not hidden.
        passes: over a hidden state, the FFN's activations, attention's and the logits, reading or writing, forward and
            backward, beside the matrix products.
        gradient: bytes a parameter that adding a micro-batch's gradient to the others' moves.
    """

    matmul: float
    narrow: float
    layer: float
    nvlink: float
    passes: tuple[int, int, int, int]
    gradient: int


_FUSED = _Reach(0.66, 200, 0.2e-3, 1.0, (8, 2, 4, 3), 8)
_MCORE = _Reach(0.70, 0, 1.4e-3, 0.45, (16, 6, 6, 12), 12)
_MEMORY = 0.80
_NETWORK = 40e9  # bytes/s a GPU between nodes: 400 Gb/s InfiniBand, in use
# Seconds a token, layer and hidden unit that dropout costs on an H100 (1082 - 1002 ms for 65,536 x 24 x 2048).
_DROPOUT = 2.5e-11
_MEAN_DOCUMENT = 1024


@dataclass(frozen=True)
class Measurement:
    """One row of benchmarks/results/throughput.jsonl.

    Attributes:
        seconds: of a step; ``where`` says which row it is, in words.
        attention: the kernels that it had.
    """

    recipe: Recipe
    gpu: Gpu
    ranks: int
    seconds: float
    memory: float | None  # GiB
    mean_document: int
    where: str
    attention: str


@dataclass(frozen=True)
class Speed:
    """Attributes: seconds of a step; source: where the figure comes from, in words."""

    seconds: float
    source: str


@functools.cache
def _documents(mean: int, seq_length: int) -> list[int]:
    """A thousand lengths, spread as those of source files are (lognormal, sigma 1), longer ones cut into rows."""
    normal, pieces = NormalDist(), []
    for number in range(1000):
        length = max(1, round(mean * math.exp(normal.inv_cdf((number + 0.5) / 1000) - 0.5)))
        pieces += [seq_length] * (length // seq_length)
        pieces += [length % seq_length] if length % seq_length else []
    return pieces


def step_flops(recipe: Recipe, mean_document: int, frozen: bool = True) -> int:
    """Model FLOPs of a global batch of packed rows (see model.flops).

    Args:
        frozen: count a LoRA run as what it is, not as one that trains all weights.
    """
    positions = recipe.batch.global_size * recipe.data.seq_length
    documents = _documents(mean_document, recipe.data.seq_length)
    squared = positions * flops.squared_lengths(documents, recipe.model.sliding_window) // sum(documents)
    return flops.training_flops(recipe.model, positions, squared, recipe.lora if frozen else None)


def modelled_seconds(recipe: Recipe, gpu: Gpu, ranks: int, per_node: int, mean_document: int) -> float:
    """A step's time by parts that add up: multiplying, moving memory, talking, and waiting for the pipeline to fill."""
    model, compute, layout, tokens = (
        recipe.model,
        recipe.compute,
        recipe.parallel.layout,
        recipe.compute.micro_tokens,
    )
    tensor, stages, size = layout.tensor, layout.pipeline, compute.element_bytes
    replicas = max(1, ranks // layout.model_ranks)
    micro = max(1.0, recipe.batch.global_size / (replicas * recipe.batch.micro_size))
    share = layout.token_ranks
    hidden, ffn, layers = model.hidden_size, model.ffn_hidden_size, model.num_layers / stages

    operations = step_flops(recipe, mean_document)
    again = {"none": 0.0, "mlp": 0.22, "full": 0.33}[
        recipe.train.recompute
    ]  # of the layers' share: nearly all
    operations += int(again * step_flops(recipe, mean_document, frozen=False))
    reach = _FUSED if recipe.compute.fused else _MCORE
    speed = reach.matmul * hidden / (hidden + reach.narrow) * gpu.peak
    multiply = operations / (micro * layout.model_ranks * replicas) / speed

    over_hidden, over_ffn, over_heads, over_logits = reach.passes
    passes = over_hidden * hidden / share + (over_ffn * ffn + over_heads * hidden) / tensor
    passes = layers * passes + over_logits * model.padded_vocab_size / tensor / stages
    moved = tokens * size * passes
    held = trained_parameters(model, compute, 0)
    moved += held * reach.gradient
    memory = moved / (_MEMORY * gpu.bandwidth)
    if model.hidden_dropout or model.attention_dropout:
        memory += tokens * layers * hidden / share * _DROPOUT * GPUS["h100"].bandwidth / gpu.bandwidth

    # Forward and backward: four times all tokens' hidden states there and back, and once more for the weights.
    talk = 0.0
    if tensor > 1:
        each = tokens * size * hidden * (tensor - 1) / tensor
        wire = reach.nvlink * gpu.nvlink if tensor <= per_node else _NETWORK
        talk = 10 * layers * each / wire

    step = (multiply + memory + talk + layers * reach.layer) * (micro + stages - 1)
    optimizer = held * (4 + 4 + 2 + 28 / replicas) / (_MEMORY * gpu.bandwidth)
    wire = _NETWORK if ranks > per_node else reach.nvlink * gpu.nvlink
    reduce = held * (4 + size) * (replicas - 1) / replicas / wire
    # Overlapped with the last backward pass and the next forward one, it still shows in part.
    hidden_part = 0.8 * min(reduce, multiply) if recipe.system.overlap else 0.0
    return step + optimizer + reduce - hidden_part


def _machine(row: dict[str, Any]) -> Gpu | None:
    names = row.get("machine", {}).get("gpus") or [""]
    return next((gpu for gpu in GPUS.values() if gpu.name in names[0]), None)


def load_measurements(path: Path = MEASURED) -> list[Measurement]:
    """Rows of GPUs in the file, oldest first. Rows whose recipe is no longer valid are passed over.

    Raises:
        OctoError: the file cannot be read.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            gpu = _machine(row)
            if gpu is None or "recipe" not in row:  # a CPU's, or a peer's
                continue
            # What auto took there was measured, not what it would take elsewhere.
            taken = ["system.attention=flash4"] if row.get("attention") == "flash4" else []
            mlp = str(row.get("mlp") or "plain")  # rows without it are from before there was another
            taken += [f"system.mlp={mlp}"] if mlp in ("quack", "plain") else []
            recipe = load_recipe(PROJECT / row["recipe"], [*row["overrides"], *taken])
            seconds, ranks = float(row["step_ms"]) / 1e3, int(row["ranks"])
            document = int(row["mean_document"])
            attention = str(row.get("attention") or _attention(recipe))
        except OctoError:
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise OctoError(
                f"no row of benchmarks/throughput.py: {error!r}", where=f"{path}:{number}"
            ) from None
        when = f"{row['date']}, " if row.get("date") else ""
        mfu = f", {row['mfu']:.1%} MFU" if row.get("mfu") else ""
        where = f"{path.name}:{number} ({when}{ranks} x {gpu.name}{mfu})"
        memory = row.get("memory_gib")
        found.append(Measurement(recipe, gpu, ranks, seconds, memory, document, where, attention))
    return found


def _distance(recipe: Recipe, gpu: Gpu, row: Measurement, mean_document: int) -> float:
    """How far the conditions of a measurement are from ours; 0 for the same model on the same GPU."""

    def octaves(ours: float, theirs: float) -> float:
        return abs(math.log2(ours / theirs))

    other = row.recipe
    kernels, others = _kernels(recipe, _attention(recipe)), _kernels(other, row.attention)
    ours, theirs = (
        recipe.batch.micro_size * recipe.data.seq_length,
        other.batch.micro_size * other.data.seq_length,
    )
    return (
        2 * octaves(recipe.model.hidden_size, other.model.hidden_size)
        + 0.2 * octaves(recipe.model.num_layers, other.model.num_layers)
        + octaves(recipe.parallel.tensor, other.parallel.tensor)
        + 0.3 * octaves(recipe.parallel.pipeline, other.parallel.pipeline)
        + 0.5 * octaves(ours, theirs)
        + 0.3
        * octaves(min(mean_document, recipe.data.seq_length), min(row.mean_document, other.data.seq_length))
        + (0 if gpu.name == row.gpu.name else 0.5 if gpu.peak == row.gpu.peak else 2)
        + 0.5 * (bool(recipe.model.hidden_dropout) != bool(other.model.hidden_dropout))
        + 0.3 * (recipe.train.recompute != other.train.recompute)
        + 0.3 * (recipe.parallel.sequence != other.parallel.sequence)
        + 0.5
        * sum(None not in (kernels[key], value) and kernels[key] != value for key, value in others.items())
        + 1.0 * (recipe.train.precision != other.train.precision)
        + 2.0 * (recipe.train.fp8 != other.train.fp8)
    )


def _attention(recipe: Recipe) -> str:
    """The kernels that a recipe is planned with: what is installed there is not known, so the usual ones."""
    return {"auto": "te", "torch": "flash"}.get(recipe.system.attention, recipe.system.attention)


def _mlp(recipe: Recipe, attention: str) -> str | None:
    """As :func:`_attention`; None where there is no choice. QuACK is installed together with FlashAttention-4."""
    if not recipe.compute.fused or recipe.train.fp8 != "none":
        return None
    usual = "quack" if attention == "flash4" else "plain"
    return usual if recipe.system.mlp == "auto" else recipe.system.mlp


def _kernels(recipe: Recipe, attention: str) -> dict[str, Any]:
    """What chooses other kernels; None stands for any. ``auto`` is Transformer Engine's."""
    settings = recipe.system.model_dump(include={"cross_entropy", "overlap", "deterministic"})
    taken = {key: "te" if value == "auto" else value for key, value in settings.items()}
    mlp = _mlp(recipe, attention)
    return {**taken, "attention": attention, "mlp": mlp, "fused": recipe.compute.fused}


def step_speed(
    recipe: Recipe,
    gpu: Gpu,
    ranks: int,
    per_node: int,
    rows: list[Measurement],
    mean_document: int = _MEAN_DOCUMENT,
) -> Speed:
    """Seconds of a step: the nearest measurement times the ratio of the modelled times."""
    ours = modelled_seconds(recipe, gpu, ranks, per_node, mean_document)
    if not rows:
        return Speed(ours, "no measurement; a model of matmul, memory and network speed alone")
    # Of rows that are equally near the newest counts: the code gets faster.
    row = min(reversed(rows), key=lambda row: _distance(recipe, gpu, row, mean_document))
    theirs = modelled_seconds(row.recipe, row.gpu, row.ranks, per_node, row.mean_document)
    seconds = row.seconds * ours / theirs
    same = _distance(recipe, gpu, row, mean_document) == 0 and row.ranks == ranks
    if same and row.recipe.batch == recipe.batch and row.mean_document == mean_document:
        return Speed(seconds, f"measured: {row.where}")
    return Speed(seconds, f"carried over from {row.where}")
