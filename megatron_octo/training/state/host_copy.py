"""Copy of a run's state in host memory, from which a thread writes while training changes the original."""

import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.file_image import FileImage
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter, spec_bytes
from megatron_octo.model.platform.grid import Grid
from megatron_octo.training.state.host_memory import available_bytes
from megatron_octo.training.state.state_parts import StatePart, Stored

_MEMORY_SHARE = 0.8  # of what the machine has left
_Key = tuple[str, torch.dtype]


def _key(file: str, stored: dict[str, Stored]) -> _Key:
    # Weights alone and the weights of an fp32 run's whole state share an image if they have one dtype.
    return file, next(iter(stored.values())).spec[0]


class HostCopy:
    """Host memory for everything that this rank stores, taken once, by ``take`` or when it is needed.

    On a GPU it is page-locked, and the copies run on a separate stream while the next step computes its gradients; only
    its update has to wait for them (``before_update``).

    Args:
        parts: of the state; their present values do not matter.
        grid: all ranks.
        worker: takes the memory, which takes seconds for many gigabytes.
        say: prints a line.

    Attributes:
        possible: whether every machine of the run has enough memory.
    """

    def __init__(self, parts: Iterable[StatePart], grid: Grid, worker: Executor, say: Callable[[str], None]):
        self._grid, self._worker = grid, worker
        self._images: dict[_Key, FileImage] = {}
        self._stream = torch.cuda.Stream(grid.device) if grid.device.type == "cuda" else None
        self._copied: torch.cuda.Event | None = None
        self._wanted = {
            _key(file, stored): {key: item.spec for key, item in stored.items()}
            for part in parts
            for file, stored in part.files.items()
        }
        size = sum(spec_bytes(spec) for specs in self._wanted.values() for spec in specs.values())
        lack = lack_of_memory(size, grid)
        self.possible = lack is None
        if lack:
            say(f"saving makes training wait: {lack}")
        self._taken: Future[None] | None = None

    def take(self) -> None:
        """Begin to take the memory, unless that has begun.

        Best after the first step, since the loader's first batches need the cores and page-locked memory.
        """
        if self.possible and self._taken is None:
            self._taken = self._worker.submit(self._take)

    def _take(self) -> None:
        if self._stream:
            torch.cuda.set_device(self._grid.device)
        try:
            for key, specs in self._wanted.items():
                self._images[key] = FileImage(specs, pin=self._stream is not None)
        except RuntimeError as error:  # no memory, or too many pages to lock
            print(f"[rank {self._grid.rank}] saving makes training wait: {error}", flush=True)
            self._images.clear()

    def ready(self) -> bool:
        """Return whether this rank has memory to copy to; waits until it was taken."""
        self.take()
        if self._taken is None:
            return False
        self._taken.result()
        return len(self._images) == len(self._wanted)

    def fill(self, parts: Iterable[StatePart]) -> None:
        """Copy the present values; on a GPU the copies are still running when this returns."""
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            files = {_key(file, stored): stored for part in parts for file, stored in part.files.items()}
            for key, stored in files.items():
                self._images[key].fill(item.read() for item in stored.values())
            if self._stream:
                self._copied = self._stream.record_event()

    def before_update(self) -> None:
        """Make the GPU finish the copies before it changes their sources."""
        if self._copied:
            torch.cuda.current_stream().wait_event(self._copied)

    def write(self, path: Path, stored: dict[str, Stored], cancelled: threading.Event) -> FileRecord:
        """Write the copy of a file, while other threads run.

        Raises:
            CancelledSave, OSError: see :meth:`FileImage.write`.
        """
        if self._copied:
            self._copied.synchronize()
        return self._images[_key(path.name, stored)].write(path, cancelled)


def write_directly(path: Path, stored: dict[str, Stored]) -> FileRecord:
    """Write a file from the tensors themselves, with one at a time in host memory."""
    with SafetensorsWriter(path, {key: item.spec for key, item in stored.items()}) as writer:
        for key, item in stored.items():
            writer.write(key, item.read().detach().to(item.spec[0]))
        return writer.close()


def lack_of_memory(size: int, grid: Grid) -> str | None:
    """Return why some machine has no memory for copies of ``size`` bytes on this rank, or None. Collective."""
    ranks: list[Any] = [None] * grid.world
    dist.all_gather_object(ranks, (socket.gethostname(), size, available_bytes()))
    for host in sorted({host for host, *_ in ranks}):
        together = sum(size for name, size, _ in ranks if name == host)
        free = min((free for name, _, free in ranks if name == host and free is not None), default=None)
        if free is not None and together > _MEMORY_SHARE * free:
            return f"a copy of the state takes {together / 1e9:.1f} GB, {host} has {free / 1e9:.1f} GB of memory left"
    return None
