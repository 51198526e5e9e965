"""Micro-batches of a step, from the row plan to tensors; the next step's are prepared while one runs."""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_octo.data.row_stream import Batch, Position, RowStream
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.loading import check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.sizing.flops import squared_lengths


@dataclass(frozen=True)
class MicroBatch:
    """Rows laid end to end; T = micro_size * seq_length."""

    tokens_1T: Tensor
    positions_1T: Tensor
    labels_T: Tensor
    weights_T: Tensor
    boundaries: Tensor  # int32 [documents + 1]
    longest: int  # an upper bound of the documents' lengths (length_bound)
    whole_rows: int  # number of rows if each is one document from end to end, else 0


@dataclass(frozen=True)
class StepBatch:
    """This rank's share of a global batch.

    Attributes:
        divisor: sum of the label weights of the whole global batch, over all ranks.
        rows: (epoch, row) of the whole global batch, in order.
        after: position in the data after this step.
        targets, used: counts in this rank's share (see data.row_stream.Batch).
        squared_lengths: of its documents (see sizing.flops).
    """

    micro_batches: list[MicroBatch]
    divisor: float
    rows: list[tuple[int, int]]
    after: Position
    targets: int
    used: int
    squared_lengths: int


class Loader:
    """Yields the steps' batches in order. Every rank of a replica reads the same rows itself.

    Args:
        position: of the first row.
        steps: batches that will be asked for (None: unknown); nothing is prepared or planned beyond them.
    """

    def __init__(self, stream: RowStream, recipe: Recipe, grid: Grid, position: Position, steps: int | None = None):
        self._stream, self._grid = stream, grid
        self._global_size, self._micro_size = recipe.batch.global_size, recipe.batch.micro_size
        self._window = recipe.model.sliding_window
        self._count = check_batch(recipe, grid.layout.data)
        self._pin = grid.device.type == "cuda"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._left = steps  # batches that have not been asked for
        self._pending: Future[StepBatch] | None = None
        self._submit(position)

    def _submit(self, position: Position) -> None:
        self._pending = self._worker.submit(self._prepare, position) if self._left != 0 else None

    def _my_rows(self, rows: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        size, grid = self._micro_size, self._grid
        starts = [(micro * grid.layout.data + grid.data_rank) * size for micro in range(self._count)]
        return [rows[start : start + size] for start in starts]

    def _prepare(self, position: Position) -> StepBatch:
        size = self._global_size
        rows, after = self._stream.take(position, size, self._left and (self._left - 1) * size)
        batches = [self._stream.batch(mine) for mine in self._my_rows(rows)]
        squared = 0
        for batch in batches:
            squared += squared_lengths(batch.boundaries[1:] - batch.boundaries[:-1], self._window)
        return StepBatch(
            micro_batches=[self._to_tensors(batch) for batch in batches],
            divisor=self._stream.weight(rows),
            rows=rows,
            after=after,
            targets=sum(batch.targets for batch in batches),
            used=sum(batch.used for batch in batches),
            squared_lengths=squared,
        )

    def _to_tensors(self, batch: Batch) -> MicroBatch:
        tensors: dict[str, Any] = {
            "tokens_1T": torch.from_numpy(batch.tokens)[None],
            "positions_1T": torch.from_numpy(batch.positions)[None],
            "labels_T": torch.from_numpy(batch.labels),
            "weights_T": torch.from_numpy(batch.weights),
            "boundaries": torch.from_numpy(batch.boundaries),
        }
        if self._pin:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        lengths = batch.boundaries[1:] - batch.boundaries[:-1]
        row = len(batch.tokens) // self._micro_size
        whole = len(lengths) == self._micro_size and bool((lengths == row).all())
        return MicroBatch(
            **tensors,
            longest=length_bound(int(lengths.max()), row),
            whole_rows=self._micro_size if whole else 0,
        )

    def next(self) -> StepBatch:
        """Return the next step's batch, in host memory, and begin to prepare the one after it."""
        if self._pending is None:
            raise IndexError("no batch is left")
        step = self._pending.result()
        if self._left is not None:
            self._left -= 1
        self._submit(step.after)
        return step

    def close(self) -> None:
        """Wait for a batch that is being prepared, and end the thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)


def length_bound(longest: int, row: int) -> int:
    """Return the length of the longest document, rounded up to a power of two from 512 on, at most a row.

    Attention kernels start blocks for documents of that length, which do nothing in shorter ones; and cuDNN prepares
    a graph per value, so there are few.
    """
    return min(max(512, 1 << (longest - 1).bit_length()), row)


def to_device(batch: MicroBatch, device: torch.device) -> MicroBatch:
    """Copy the tensors of a micro-batch to a GPU, asynchronously from pinned memory; on a CPU nothing is copied."""
    if device.type == "cpu":
        return batch
    tensors: dict[str, Any] = {
        field.name: value.to(device, non_blocking=True)
        for field in dataclasses.fields(batch)
        if isinstance(value := getattr(batch, field.name), Tensor)
    }
    return dataclasses.replace(batch, **tensors)
