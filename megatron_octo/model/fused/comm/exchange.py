"""What the tensor ranks say to each other inside a layer.

Tokens are rows. Under sequence parallelism each rank keeps an even, consecutive part of them between the linear layers.
Around a linear layer the rows are handled in pieces, one a rank: the own piece is computed while the others' are on
their way, and what the others wait for is computed before what stays here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_octo.model.fused.comm.peer_memory import PeerMemory


class Pending:
    """A tensor that may still be on its way; :meth:`wait` before it is read. What it comes from is kept until then."""

    def __init__(self, make: Callable[[], Tensor], *kept: Tensor):
        self._make: Callable[[], Tensor] | None = make
        self._kept: tuple[Tensor, ...] = kept
        self._tensor: Tensor | None = None

    def wait(self) -> Tensor:
        if self._make is not None:
            self._tensor, self._make, self._kept = self._make(), None, ()
        assert self._tensor is not None
        return self._tensor


def _after(work: Any, tensor: Tensor, *kept: Tensor) -> Pending:
    """``tensor`` once ``work`` is done."""

    def wait() -> Tensor:
        work.wait()
        return tensor

    return Pending(wait, *kept)


@dataclass(frozen=True)
class TensorGroup:
    """Attributes: the tensor ranks' process group, how many they are, this one's number, sequence parallelism, and
    the memory through which they reach each other without a collective (GPUs of one machine), if they can."""

    group: dist.ProcessGroup
    size: int
    rank: int
    sequence: bool
    peer: PeerMemory | None = field(default=None, compare=False)

    def rows(self, whole: int) -> list[slice]:
        """The pieces of so many rows: this rank's first. One piece without sequence parallelism."""
        if not self.sequence:
            return [slice(0, whole)]
        part = whole // self.size
        ranks = [(self.rank + step) % self.size for step in range(self.size)]
        return [slice(rank * part, (rank + 1) * part) for rank in ranks]

    def gather(self, part_SX: Tensor) -> list[Pending]:
        """The pieces of the whole tensor, in the order of :meth:`rows`."""
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
        """The sum over the ranks of a tensor, of which this rank keeps its piece, or all without sequence parallelism.

        Args:
            compute: this rank's summand of a piece, by its place in :meth:`rows`; called for the own piece last.
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
        """All rows in their order."""
        if not self.sequence:
            return part_SX
        pieces = [piece.wait() for piece in self.gather(part_SX)]
        return torch.cat([pieces[(rank - self.rank) % self.size] for rank in range(self.size)])
