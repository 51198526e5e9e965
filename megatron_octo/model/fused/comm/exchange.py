"""Gathering and summing of rows over the tensor ranks inside a layer.

Rows are tokens. Under sequence parallelism each rank keeps an even, consecutive part of them (S of T) between the
linear layers. Around a linear layer the rows are handled in one piece per rank: the own piece is computed while the
others arrive, and pieces for other ranks are computed before the own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_octo.model.fused.comm.peer_memory import PeerMemory


class Pending:
    """A tensor that may still be arriving; :meth:`wait` returns it. Its sources are kept alive until then."""

    def __init__(self, make: Callable[[], Tensor], *kept: Tensor):
        self._make: Callable[[], Tensor] | None = make
        self._kept: tuple[Tensor, ...] = kept
        self._tensor: Tensor | None = None

    def wait(self) -> Tensor:
        """Wait for the tensor and return it."""
        if self._make is not None:
            self._tensor, self._make, self._kept = self._make(), None, ()
        assert self._tensor is not None
        return self._tensor


def _after(work: Any, tensor: Tensor, *kept: Tensor) -> Pending:
    """Return ``tensor``, pending until ``work`` is done."""

    def wait() -> Tensor:
        work.wait()
        return tensor

    return Pending(wait, *kept)


@dataclass(frozen=True)
class TensorGroup:
    """The tensor ranks of this process, and how they exchange rows.

    Attributes:
        group: Their process group.
        size: Number of them.
        rank: Of this process among them.
        sequence: Sequence parallelism.
        peer: Shared memory that replaces collectives between GPUs of one machine, or None.
    """

    group: dist.ProcessGroup
    size: int
    rank: int
    sequence: bool
    peer: PeerMemory | None = field(default=None, compare=False)

    def rows(self, whole: int) -> list[slice]:
        """Return the pieces of ``whole`` rows, this rank's first; one piece without sequence parallelism."""
        if not self.sequence:
            return [slice(0, whole)]
        part = whole // self.size
        ranks = [(self.rank + step) % self.size for step in range(self.size)]
        return [slice(rank * part, (rank + 1) * part) for rank in ranks]

    def gather(self, part_SX: Tensor) -> list[Pending]:
        """Gather the pieces [S, X] of the whole tensor [T, X], in the order of :meth:`rows`."""
        if not self.sequence:
            return [Pending(lambda: part_SX)]
        if self.peer:
            others = self.peer.fetch(part_SX)
            return [Pending(lambda: part_SX), *(Pending(other) for other in others)]
        whole = part_SX.new_empty((part_SX.size(0) * self.size, *part_SX.shape[1:]))
        part_SX = part_SX.contiguous()
        work = dist.all_gather_into_tensor(whole, part_SX, group=self.group, async_op=True)
        pieces = self.rows(whole.size(0))[1:]
        return [Pending(lambda: part_SX), *(_after(work, whole[rows], part_SX) for rows in pieces)]

    def sum(self, compute: Callable[[int], Tensor]) -> Pending:
        """Sum a tensor over the ranks; return this rank's piece, or all of it without sequence parallelism.

        Args:
            compute: Returns this rank's summand of a piece, by its place in :meth:`rows`; called last for the own one.
        """
        if self.size == 1:
            own = compute(0)
            return Pending(lambda: own)
        if not self.sequence:
            summand = compute(0)
            return _after(dist.all_reduce(summand, group=self.group, async_op=True), summand)
        if self.peer:
            return Pending(self.peer.exchange(compute))
        pieces = {place: compute(place) for place in range(self.size - 1, -1, -1)}
        by_rank = [pieces[(rank - self.rank) % self.size] for rank in range(self.size)]
        whole, out = torch.cat(by_rank), torch.empty_like(pieces[0])
        return _after(dist.reduce_scatter_tensor(out, whole, group=self.group, async_op=True), out, whole)

    def gather_whole(self, part_SX: Tensor) -> Tensor:
        """Gather all rows in order: [T, X]."""
        if not self.sequence:
            return part_SX
        pieces = [piece.wait() for piece in self.gather(part_SX)]
        return torch.cat([pieces[(rank - self.rank) % self.size] for rank in range(self.size)])
