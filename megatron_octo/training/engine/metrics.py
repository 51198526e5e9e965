"""Sums of a step over all ranks: one all-reduce carries loss, counts, gradient norm and requests to stop."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from megatron_octo.model.platform.grid import Grid
from megatron_octo.runfiles.signals import REASONS
from megatron_octo.training.engine.batches import StepBatch


@dataclass(frozen=True)
class SaveNews:
    """Progress of saves on a rank, or its sum over all ranks (see saver.py).

    Attributes:
        phases: completed since the start.
        failed: whether a rank could not write.
    """

    phases: int = 0
    failed: bool = False


@dataclass(frozen=True)
class Totals:
    """Sums over all ranks of one step; one all-reduce carries them with the gradient norm and requests to stop."""

    loss: float
    grad_norm: float
    used: int
    squared_lengths: int
    targets: int
    stop: str | None
    saves: SaveNews


def reduce_totals(
    loss: torch.Tensor,
    batch: StepBatch,
    stop: str | None,
    grid: Grid,
    saves: SaveNews = SaveNews(),
    grad_norm: float = 0.0,
) -> Totals:
    """Sum a step's numbers over all ranks. Collective; all get the same answer, and decide alike.

    Args:
        loss: this replica's part of the loss.
        batch: this rank's share of the global batch.
        grid: all ranks.
        stop: why this rank wants to stop, one of signals.REASONS.
        saves: this rank's progress.
        grad_norm: rank 0's is taken, so that ranks cannot differ by rounding.
    """
    mine = float(grid.counts_loss)  # tensor ranks hold the same loss: count a replica once
    counts = [batch.used, batch.squared_lengths, batch.targets]
    wishes = [float(stop == reason) for reason in REASONS]
    values = torch.tensor(
        [
            0.0,
            grid.is_main and grad_norm,
            *(mine * count for count in counts),
            saves.phases,
            saves.failed,
            *wishes,
        ],
        dtype=torch.float64,
        device=grid.device,
    )
    values[0] = mine * loss
    dist.all_reduce(values)
    total_loss, norm, used, squared, targets, phases, failures, *stops = values.tolist()
    news = SaveNews(round(phases), failures > 0)
    return Totals(total_loss, norm, round(used), round(squared), round(targets), _first_wish(stops), news)


def agree_to_stop(stop: str | None, grid: Grid) -> str | None:
    """Return why some rank wants to stop, between steps, or None. Collective."""
    wishes = torch.tensor([float(stop == reason) for reason in REASONS], device=grid.device)
    dist.all_reduce(wishes)
    return _first_wish(wishes.tolist())


def _first_wish(wishes: list[float]) -> str | None:
    return next((reason for reason, wished in zip(REASONS, wishes, strict=True) if wished), None)
