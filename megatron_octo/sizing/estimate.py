"""What a run will need on a cluster: memory, time, disk, and what to change where it does not fit."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.loading import build_recipe, check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing import save_interval as saving
from megatron_octo.sizing.gpus import Gpu, find_gpu
from megatron_octo.sizing.memory import GIB, Memory, memory
from megatron_octo.sizing.save_interval import Saving
from megatron_octo.sizing.step_time import (
    MEASURED,
    Measurement,
    Speed,
    load_measurements,
    step_flops,
    step_speed,
)


@dataclass(frozen=True)
class Cluster:
    """Where a run is to go, and what is assumed of it.

    Attributes:
        failures: per 1,000 node-days; disk: bytes/s into the run directory.
        mean_document: tokens; attention sees one document at a time.
        rows: measurements to carry over.
    """

    gpu: Gpu
    nodes: int
    per_node: int
    failures: float
    disk: float
    mean_document: int
    rows: tuple[Measurement, ...]

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node


@dataclass(frozen=True)
class Plan:
    """What :func:`estimate` found. ``changes`` are overrides that make it fit, each with the GiB it then takes."""

    recipe: Recipe
    cluster: Cluster
    replicas: int
    micro_batches: int
    memory: Memory
    speed: Speed
    saving: Saving
    changes: tuple[tuple[str, float], ...]

    @property
    def fits(self) -> bool:
        return self.memory.total / GIB <= self.cluster.gpu.usable

    @property
    def tokens_per_second(self) -> float:
        return self.recipe.batch.global_size * self.recipe.data.seq_length / self.speed.seconds

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: of the GPUs' dense bf16 peak (the formula is in megatron_octo.sizing.flops)."""
        recipe, cluster = self.recipe, self.cluster
        operations = step_flops(recipe, cluster.mean_document)
        return operations / self.speed.seconds / cluster.gpus / cluster.gpu.peak

    @property
    def days(self) -> float:
        """To the last step, with saving, failures and restarts at the recipe's interval."""
        work = self.recipe.train.steps * self.speed.seconds / 86400
        return work / (1 - self.saving.lost) if self.saving.lost < 1 else float("inf")

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.cluster.gpus

    def lines(self) -> list[str]:
        """The plan in words, a line a thing."""
        return [*self._layout(), *self._memory(), *self._time(), *self._saving()]

    def _layout(self) -> Iterator[str]:
        recipe, cluster, parallel = self.recipe, self.cluster, self.recipe.parallel
        layout = replace(parallel.layout, data=self.replicas)
        yield (
            f"{cluster.nodes} x {cluster.per_node} {cluster.gpu.name}: {layout}; {self.micro_batches} micro-batches of "
            f"{recipe.batch.micro_size} x {recipe.data.seq_length:,} tokens a step and replica"
        )
        if parallel.tensor > cluster.per_node:
            yield f"  note: tensor {parallel.tensor} goes over nodes of {cluster.per_node} GPUs, which is slow"
        if self.micro_batches < 4 * (parallel.pipeline - 1):
            waste = (parallel.pipeline - 1) / (self.micro_batches + parallel.pipeline - 1)
            yield f"  note: the pipeline is empty for {waste:.0%} of a step; more micro-batches would fill it"

    def _memory(self) -> Iterator[str]:
        where = f" (pipeline stage {self.memory.stage})" if self.recipe.parallel.pipeline > 1 else ""
        total, usable = self.memory.total / GIB, self.cluster.gpu.usable
        yield f"memory of the fullest GPU{where}, GiB:"
        for name, size in self.memory.parts().items():
            yield f"  {name:<12}{size / GIB:8.2f}"
        verdict = "fits" if self.fits else "does NOT fit"
        yield (
            f"  {'total':<12}{total:8.2f}  {verdict}: {usable:.1f} of the {self.cluster.gpu.memory:.1f} "
            f"of an {self.cluster.gpu.name} are usable"
        )
        if not self.fits:
            for change, size in self.changes:
                yield f"  would fit with {change}: {size / GIB:.1f} GiB"
            if not self.changes:
                yield "  no single change makes it fit: --search looks for a layout, or take more or larger GPUs"

    def _time(self) -> Iterator[str]:
        recipe, rate = self.recipe, self.tokens_per_second
        tokens = recipe.train.steps * recipe.batch.global_size * recipe.data.seq_length
        yield (
            f"time: {self.speed.seconds:.3g} s a step, {rate:,.0f} tokens/s "
            f"({rate / self.cluster.gpus:,.0f} a GPU, MFU {self.mfu:.1%})"
        )
        yield (
            f"  {recipe.train.steps:,} steps, {tokens / 1e9:.3g} billion tokens in {self.days:.3g} days, "
            f"{self.gpu_hours:,.0f} GPU hours"
        )
        yield f"  {self.speed.source}; documents of {self.cluster.mean_document:,} tokens"

    def _saving(self) -> Iterator[str]:
        recipe, found, cluster = self.recipe, self.saving, self.cluster
        yield (
            f"checkpoint: {found.checkpoint_bytes / 1e9:.1f} GB, written in {found.write_seconds:.0f} s at "
            f"{cluster.disk / 1e9:g} GB/s, training waits {found.save_seconds:.1f} s; "
            f"{found.disk_bytes / 1e9:,.0f} GB of disk for those kept and the one being written"
        )
        yield (
            f"  a failure every {_duration(found.failure_seconds)} at {cluster.failures:g} a 1,000 node-days; "
            f"least is lost saving every {_duration(found.best_seconds)}: checkpoint.interval="
            f"{max(1, round(found.best_seconds / self.speed.seconds))} ({found.best_lost:.2%})"
        )
        if recipe.checkpoint.interval:
            every = recipe.checkpoint.interval * self.speed.seconds
            yield (
                f"  the recipe saves every {recipe.checkpoint.interval} steps, {_duration(every)} "
                f"({found.lost:.2%} lost)"
            )
        else:
            yield "  the recipe never saves: one failure and all is lost"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


# What to try, least costly first, if a plan does not fit.
_CHANGES = (
    {"batch.micro_size": 1},
    {"train.recompute": "mlp"},
    {"optimizer.state_dtype": "bf16"},
    {"batch.micro_size": 1, "train.recompute": "mlp"},
    {"train.recompute": "full"},
    {"batch.micro_size": 1, "train.recompute": "full"},
    {"batch.micro_size": 1, "train.recompute": "mlp", "optimizer.state_dtype": "bf16"},
)


def change(recipe: Recipe, overrides: dict[str, object]) -> Recipe | None:
    """The recipe with other values at dotted keys; None if that is no valid recipe."""
    tree = recipe.model_dump()
    for key, value in overrides.items():
        section, _, leaf = key.partition(".")
        tree[section][leaf] = value
    try:
        return build_recipe(tree)
    except OctoError:
        return None


def in_words(overrides: dict[str, object]) -> str:
    """Overrides as one writes them on a command line."""
    return " ".join(f"{key}={str(value).lower()}" for key, value in overrides.items())


def differing(recipe: Recipe, overrides: dict[str, object]) -> dict[str, object]:
    """Those overrides that say something else than the recipe."""
    tree = recipe.model_dump()
    found = {}
    for key, value in overrides.items():
        section, _, leaf = key.partition(".")
        if tree[section][leaf] != value:
            found[key] = value
    return found


def _changes(recipe: Recipe, cluster: Cluster) -> Iterator[tuple[str, float]]:
    candidates: list[dict[str, object]] = [dict(item) for item in _CHANGES]
    tensor = 2 * recipe.parallel.tensor
    while tensor <= cluster.per_node:
        candidates.append({"parallel.tensor": tensor, "parallel.sequence": True})
        tensor *= 2
    seen: list[dict[str, object]] = [{}]
    for candidate in candidates:
        overrides = differing(recipe, candidate)
        changed = change(recipe, overrides)
        if changed is None or overrides in seen:
            continue
        seen.append(overrides)
        try:
            replicas = changed.parallel.layout.replicas(cluster.gpus)
            size = memory(changed.model, changed.compute, replicas, check_batch(changed, replicas)).total
        except OctoError:  # too few GPUs, or a batch that they cannot share
            continue
        if size / GIB <= cluster.gpu.usable:
            yield in_words(overrides), size


def plan_on(recipe: Recipe, cluster: Cluster) -> Plan:
    """Raises:
    OctoError: the GPUs cannot hold whole replicas, or the batch cannot be shared out over them.
    """
    replicas = recipe.parallel.layout.replicas(cluster.gpus)
    micro_batches = check_batch(recipe, replicas)
    needed = memory(recipe.model, recipe.compute, replicas, micro_batches)
    speed = step_speed(
        recipe, cluster.gpu, cluster.gpus, cluster.per_node, list(cluster.rows), cluster.mean_document
    )
    too_much = needed.total / GIB > cluster.gpu.usable
    return Plan(
        recipe=recipe,
        cluster=cluster,
        replicas=replicas,
        micro_batches=micro_batches,
        memory=needed,
        speed=speed,
        saving=saving.saving(
            recipe, cluster.nodes, cluster.gpus, speed.seconds, cluster.failures, cluster.disk
        ),
        changes=tuple(itertools.islice(_changes(recipe, cluster), 4)) if too_much else (),
    )


def estimate(
    recipe: Recipe,
    gpu: str,
    nodes: int,
    gpus_per_node: int = 8,
    *,
    failures: float = saving.FAILURES,
    disk: float = saving.DISK,
    mean_document: int = 1024,
    measured: Path = MEASURED,
) -> Plan:
    """Plan a recipe on a cluster; instant, and needs neither torch nor a GPU.

    Args:
        gpu: a key of :data:`megatron_octo.sizing.gpus.GPUS`.
        failures: per 1,000 node-days.
        disk: bytes/s into the run directory.
        mean_document: tokens of a document, whose square attention costs.
        measured: rows of ``benchmarks/throughput.py``; without the file times come from a model alone.

    Raises:
        OctoError: unknown GPU, or a layout that these GPUs cannot hold.
    """
    rows = tuple(load_measurements(measured)) if measured.exists() else ()
    cluster = Cluster(find_gpu(gpu), nodes, gpus_per_node, failures, disk, mean_document, rows)
    return plan_on(recipe, cluster)
