"""Interval between saves: the cost of a checkpoint against the cost of a failure (Young 1974, Daly 2006)."""

import math
from dataclasses import dataclass

from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.checkpoint_size import checkpoint_bytes

# Failures per 1,000 node-days of a large cluster of 8-GPU nodes: Kokolis et al., "Revisiting Reliability in
# Large-Scale Machine Learning Research Clusters", arXiv 2410.21680.
FAILURES = 6.5
RESTART_SECONDS = 300.0  # queueing, imports, loading, the first step
_TO_HOST = 10e9  # bytes/s from a GPU into host memory
DISK = 2e9  # bytes/s into the run directory, all nodes together


@dataclass(frozen=True)
class Saving:
    """Costs of saving and of failures.

    Attributes:
        checkpoint_bytes: size of one.
        disk_bytes: size of those kept and the one being written.
        write_seconds: to write one; ``save_seconds``: during which training waits for it.
        failure_seconds: mean time between failures of the whole job.
        best_seconds: between saves.
        lost: share of the time that saving, lost work and restarts cost, at the recipe's interval.
        best_lost: the same at ``best_seconds``.
    """

    checkpoint_bytes: int
    disk_bytes: int
    write_seconds: float
    save_seconds: float
    failure_seconds: float
    best_seconds: float
    lost: float
    best_lost: float


def best_interval(save_seconds: float, failure_seconds: float) -> float:
    """Return the seconds of work between saves that lose least, by Daly's higher-order formula.

    For short saves it is Young's sqrt(2 * save * failure).
    """
    if save_seconds >= 2 * failure_seconds:
        return failure_seconds
    ratio = math.sqrt(save_seconds / (2 * failure_seconds))
    young = math.sqrt(2 * save_seconds * failure_seconds)
    return young * (1 + ratio / 3 + ratio * ratio / 9) - save_seconds


def lost_share(interval: float, save_seconds: float, failure_seconds: float) -> float:
    """Return the share of the time that is not progress, for ``interval`` seconds of work between saves.

    Exponential failures (Daly 2006, equation 13): a failure costs the work since the last save and a restart.
    """
    if not interval:
        return 1.0
    exponent = (interval + save_seconds) / failure_seconds
    if exponent > 100:
        return 1.0  # a save is never reached
    wall = failure_seconds * math.exp(RESTART_SECONDS / failure_seconds) * math.expm1(exponent) / interval
    return 1 - 1 / wall


def saving(recipe: Recipe, nodes: int, gpus: int, step_seconds: float, failures: float, disk: float) -> Saving:
    """Return the costs of saving: ``failures`` are per 1,000 node-days, ``disk`` is in bytes/s."""
    size = checkpoint_bytes(recipe.model, recipe.compute)
    written = size / disk
    # Asynchronous: training waits for a copy in host memory, and goes on while that is written.
    stall = size / gpus / _TO_HOST if recipe.checkpoint.asynchronous else written
    between = 1000 * 86400 / (failures * nodes)
    best = max(best_interval(stall, between), written)
    kept, every = recipe.checkpoint.keep, recipe.checkpoint.keep_every
    kept += recipe.train.steps // every if every else 0
    ours = recipe.checkpoint.interval * step_seconds
    return Saving(
        checkpoint_bytes=size,
        disk_bytes=size * (kept + 1),
        write_seconds=written,
        save_seconds=stall,
        failure_seconds=between,
        best_seconds=best,
        lost=lost_share(ours, stall, between),
        best_lost=lost_share(best, stall, between),
    )
