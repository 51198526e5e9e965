"""Needs of a run on a cluster: memory, time, disk, and layouts that fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from megatron_octo.common.durations import duration
from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing import save_interval as saving
from megatron_octo.sizing.gpus import Gpu, find_gpu
from megatron_octo.sizing.measured import correction, load_measurements
from megatron_octo.sizing.memory import GIB, Memory, memory
from megatron_octo.sizing.save_interval import Saving
from megatron_octo.sizing.step_time import step_flops, step_seconds

_MICRO_SIZES = (1, 2, 4, 8)
_RECOMPUTE = ("none", "mlp", "full")
_SHOWN = 4  # layouts that would fit


@dataclass(frozen=True)
class Cluster:
    """Machines for a run, and what is assumed of them.

    Attributes:
        failures: per 1,000 node-days.
        disk: bytes/s into the run directory, all nodes together.
        mean_document: tokens; attention sees one document at a time.
        factor: from modelled to expected time; ``source`` says in words where it comes from.
    """

    gpu: Gpu
    nodes: int
    per_node: int
    failures: float = saving.FAILURES
    disk: float = saving.DISK
    mean_document: int = 1024
    factor: float = 1.0
    source: str = "by a model fitted to measured steps"

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Plan:
    """Result of :func:`estimate`. ``changes`` are overrides that make it fit, each with the GiB it then takes."""

    recipe: Recipe
    cluster: Cluster
    replicas: int
    micro_batches: int
    memory: Memory
    step_seconds: float
    saving: Saving
    changes: tuple[tuple[str, float], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the fullest GPU has enough memory."""
        return self.memory.total / GIB <= self.cluster.gpu.usable

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of all GPUs."""
        return self.recipe.batch.global_size * self.recipe.data.seq_length / self.step_seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: of the GPUs' dense bf16 peak (the formula is in megatron_octo.sizing.flops)."""
        operations = step_flops(self.recipe, self.cluster.mean_document)
        return operations / self.step_seconds / self.cluster.gpus / self.cluster.gpu.peak

    @property
    def seconds(self) -> float:
        """Time to the last step, with saving, failures and restarts at the recipe's interval."""
        work = self.recipe.train.steps * self.step_seconds
        return work / (1 - self.saving.lost) if self.saving.lost < 1 else float("inf")

    @property
    def gpu_hours(self) -> float:
        """Hours times GPUs."""
        return self.seconds / 3600 * self.cluster.gpus

    def lines(self) -> list[str]:
        """Return the plan as lines for a terminal."""
        return [*self._layout(), *self._memory(), *self._time(), *self._saving()]

    def _layout(self) -> Iterator[str]:
        recipe, cluster, parallel = self.recipe, self.cluster, self.recipe.parallel
        nodes = f"{cluster.nodes} nodes of " if cluster.nodes > 1 else ""
        layout = replace(parallel.layout, data=self.replicas)
        rows = f"{recipe.batch.micro_size} x {recipe.data.seq_length:,} tokens"
        yield (
            f"{nodes}{_count(cluster.per_node, cluster.gpu.name)}: {layout}; per step and replica "
            f"{_count(self.micro_batches, 'micro-batch', 'es')} of {rows}"
        )
        if parallel.tensor > cluster.per_node:
            yield f"  note: tensor {parallel.tensor} spans nodes of {cluster.per_node} GPUs, which is slow"
        if self.micro_batches < 4 * (parallel.pipeline - 1):
            waste = (parallel.pipeline - 1) / (self.micro_batches + parallel.pipeline - 1)
            yield f"  note: the pipeline is empty for {waste:.0%} of a step; more micro-batches would fill it"

    def _memory(self) -> Iterator[str]:
        where = f" (pipeline stage {self.memory.stage})" if self.recipe.parallel.pipeline > 1 else ""
        gpu = self.cluster.gpu
        yield f"memory of the fullest GPU{where}, GiB:"
        for name, size in self.memory.parts().items():
            yield f"  {name:<12}{size / GIB:8.2f}"
        verdict = "fits" if self.fits else "does NOT fit"
        yield (
            f"  {'total':<12}{self.memory.total / GIB:8.2f}  {verdict}: {gpu.usable:.1f} of the {gpu.memory:.1f} "
            f"of an {gpu.name} are usable"
        )
        for change, size in self.changes:
            yield f"  would fit with {change}: {size / GIB:.1f} GiB"
        if not self.fits and not self.changes:
            yield "  no layout makes it fit on these GPUs: take more or larger ones"

    def _time(self) -> Iterator[str]:
        recipe, cluster, rate = self.recipe, self.cluster, self.tokens_per_second
        tokens = recipe.train.steps * recipe.batch.global_size * recipe.data.seq_length
        hours = f"{self.gpu_hours:,.0f}" if self.gpu_hours >= 10 else f"{self.gpu_hours:.2g}"
        yield (
            f"time: {duration(self.seconds)}, {hours} GPU hours, for {_count(recipe.train.steps, 'step')} and "
            f"{_tokens(tokens)} tokens"
        )
        step = f"{self.step_seconds:.3g} s" if self.step_seconds >= 1 else f"{1e3 * self.step_seconds:.3g} ms"
        each = f", {rate / cluster.gpus:,.0f} per GPU" if cluster.gpus > 1 else ""
        yield f"  {step} per step: {rate:,.0f} tokens/s{each}, MFU {self.mfu:.1%}"
        yield f"  {cluster.source}; documents of {cluster.mean_document:,} tokens"

    def _saving(self) -> Iterator[str]:
        found, cluster, interval = self.saving, self.cluster, self.recipe.checkpoint.interval
        yield (
            f"checkpoint: {_bytes(found.checkpoint_bytes)}, written in {duration(found.write_seconds)} at "
            f"{cluster.disk / 1e9:g} GB/s, training waits {duration(found.save_seconds)}; "
            f"{_bytes(found.disk_bytes)} of disk for those kept and the one being written"
        )
        yield (
            f"  one failure in {duration(found.failure_seconds)} at {cluster.failures:g} per 1,000 node-days; "
            f"least is lost ({found.best_lost:.2%}) saving every {duration(found.best_seconds)}: "
            f"checkpoint.interval={max(1, round(found.best_seconds / self.step_seconds))}"
        )
        if interval:
            every = duration(interval * self.step_seconds)
            yield f"  the recipe saves every {_count(interval, 'step')}, {every} ({found.lost:.2%} lost)"
        else:
            yield "  the recipe never saves: one failure and all is lost"


def _count(number: int, name: str, plural: str = "s") -> str:
    return f"{number:,} {name}{plural if number != 1 else ''}"


def _tokens(count: float) -> str:
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def _bytes(count: float) -> str:
    for size, name in ((1e12, "TB"), (1e9, "GB")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count / 1e6:.3g} MB"


def _changed(recipe: Recipe, overrides: dict[str, object]) -> tuple[str, Recipe] | None:
    """Return the overrides that differ, as on a command line, and the recipe with them; None if it is not valid."""
    tree, words = recipe.model_dump(), []
    for key, value in overrides.items():
        section, _, leaf = key.partition(".")
        if tree[section][leaf] != value:
            tree[section][leaf] = value
            words.append(f"{key}={str(value).lower()}")
    try:
        return " ".join(words) or "the recipe as it is", build_recipe(tree)
    except OctoError:
        return None


def search(recipe: Recipe, cluster: Cluster) -> list[tuple[str, Plan]]:
    """Return every tensor x pipeline x micro-batch that fits, with the least recompute, as overrides; fastest first.

    Tensor parallelism stays inside a node and is taken with sequence parallelism, which costs nothing.
    """
    layers = recipe.model.num_layers
    tensors = [size for size in (1, 2, 4, 8, 16) if size <= cluster.per_node]
    pipelines = [size for size in range(1, layers + 1) if layers % size == 0 and size <= cluster.gpus]
    found: dict[tuple[int, int, int], tuple[str, Plan]] = {}
    for tensor, pipeline, micro, recompute in product(tensors, pipelines, _MICRO_SIZES, _RECOMPUTE):
        overrides = {
            "parallel.tensor": tensor,
            "parallel.pipeline": pipeline,
            "parallel.sequence": tensor > 1,
            "batch.micro_size": micro,
            "train.recompute": recompute,
        }
        # Once it fits, to compute more again would only take longer.
        if (tensor, pipeline, micro) in found or not (changed := _changed(recipe, overrides)):
            continue
        try:
            plan = plan_on(changed[1], cluster)
        except OctoError:  # too few GPUs, or a batch that they cannot share
            continue
        if plan.fits:
            found[tensor, pipeline, micro] = changed[0], plan
    return sorted(found.values(), key=lambda item: item[1].step_seconds)


def plan_on(recipe: Recipe, cluster: Cluster) -> Plan:
    """Plan a recipe on a cluster as it is.

    Raises:
        OctoError: the GPUs cannot hold whole replicas, or the batch cannot be shared out over them.
    """
    replicas = recipe.parallel.layout.replicas(cluster.gpus)
    micro_batches = check_batch(recipe, replicas)
    seconds = cluster.factor * step_seconds(recipe, cluster.gpu, cluster.gpus, cluster.per_node, cluster.mean_document)
    return Plan(
        recipe=recipe,
        cluster=cluster,
        replicas=replicas,
        micro_batches=micro_batches,
        memory=memory(recipe.model, recipe.compute, replicas, micro_batches),
        step_seconds=seconds,
        saving=saving.saving(recipe, cluster.nodes, cluster.gpus, seconds, cluster.failures, cluster.disk),
    )


def estimate(
    recipe: Recipe,
    gpu: str,
    nodes: int,
    gpus_per_node: int = 8,
    *,
    measured: Path | None = None,
    **assumed: float,
) -> Plan:
    """Plan a recipe on a cluster, with layouts that fit if it does not; needs neither torch nor a GPU.

    Args:
        recipe: with the layout and the batch to plan.
        nodes: number of nodes, with ``gpus_per_node`` GPUs each.
        gpus_per_node: see there.
        gpu: a key of :data:`megatron_octo.sizing.gpus.GPUS`.
        measured: rows of ``benchmarks/throughput.py``; those of this GPU correct the modelled time.
        assumed: ``failures``, ``disk`` and ``mean_document`` of :class:`Cluster`.

    Raises:
        OctoError: unknown GPU, or a layout that these GPUs cannot hold.
    """
    cluster = Cluster(find_gpu(gpu), nodes, gpus_per_node, **assumed)  # type: ignore[arg-type]
    if measured:
        factor, source = correction(load_measurements(measured), cluster.gpu)
        cluster = replace(cluster, factor=factor, source=source)
    plan = plan_on(recipe, cluster)
    if plan.fits:
        return plan
    others = search(recipe, cluster)[:_SHOWN]
    return replace(plan, changes=tuple((words, other.memory.total) for words, other in others))
