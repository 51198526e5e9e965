"""GPU memory that the tensor ranks of one machine share.

The GPUs' copy engines fetch rows from it during matrix products, without taking multiprocessors from them as a
collective's kernel would. Each use takes the next buffer of a ring: write, meet the other ranks at a barrier, fetch on
a stream of its own. A buffer may be reused once every rank has fetched its content. The ring's length ensures that: a
layer's functions wait for a fetch before they pass as many further barriers as there are ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class PeerMemory:
    """A ring of buffers on every tensor rank, for pieces of at most ``shape`` rows and columns.

    Raises:
        RuntimeError: Too little GPU memory is free.
    """

    def __init__(self, group: dist.ProcessGroup, shape: tuple[int, int], dtype: torch.dtype, device: torch.device):
        import torch.distributed._symmetric_memory as symmetric

        self._group, self._dtype = group, dtype
        self._count = shape[0] * shape[1]
        self._buffers = dist.get_world_size(group) + 3
        self._buffer = symmetric.empty(self._buffers * self._count, dtype=dtype, device=device)
        self._stream = torch.cuda.Stream(device)
        self._use = 0

    def connect(self) -> None:
        """Map the other ranks' buffers. Collective, after every rank has allocated its own.

        Raises:
            RuntimeError: The GPUs cannot reach each other's memory.
        """
        import torch.distributed._symmetric_memory as symmetric

        self._handle: Any = symmetric.rendezvous(self._buffer, self._group)
        self._rank, self._size = self._handle.rank, self._handle.world_size

    def _next(self, shape: torch.Size) -> tuple[int, Tensor]:
        """Return offset and tensor of the next buffer."""
        if shape.numel() > self._count:
            raise ValueError(f"{tuple(shape)} does not fit into a buffer of {self._count} elements")
        offset = (self._use % self._buffers) * self._count
        self._use += 1
        return offset, self._handle.get_buffer(self._rank, shape, self._dtype, offset)

    def _fetch_from(self, rank: int, shape: torch.Size, offset: int) -> Callable[[], Tensor]:
        """Start to copy a buffer of another rank; return a function that waits for the copy and returns it."""
        here = torch.cuda.current_stream()
        copy = torch.empty(shape, dtype=self._dtype, device=self._buffer.device)
        self._stream.wait_stream(here)  # for the barrier, and earlier users of the copy's memory
        with torch.cuda.stream(self._stream):
            copy.copy_(self._handle.get_buffer(rank, shape, self._dtype, offset), non_blocking=True)
            done = self._stream.record_event()

        def wait() -> Tensor:
            torch.cuda.current_stream().wait_event(done)
            return copy

        return wait

    def _others(self) -> list[int]:
        return [(self._rank + step) % self._size for step in range(1, self._size)]

    def fetch(self, part: Tensor) -> list[Callable[[], Tensor]]:
        """Fetch the same part from every other rank, the next rank first."""
        offset, mine = self._next(part.shape)
        mine.copy_(part)
        self._handle.barrier(channel=0)
        return [self._fetch_from(rank, part.shape, offset) for rank in self._others()]

    def exchange(self, compute: Callable[[int], Tensor]) -> Callable[[], Tensor]:
        """Sum over the ranks the piece that this rank keeps; see ``TensorGroup.sum``."""
        arriving = []
        for place in range(self._size - 1, 0, -1):
            # The summand is for the rank `place` ahead; the one as far behind has written this rank's.
            summand = compute(place)
            offset, mine = self._next(summand.shape)
            mine.copy_(summand)
            self._handle.barrier(channel=0)
            arriving.append(self._fetch_from((self._rank - place) % self._size, summand.shape, offset))
        own = compute(0)

        def wait() -> Tensor:
            for arrived in arriving:
                own.add_(arrived())
            return own

        return wait
