"""Measurements of a rank's machine in a few seconds: speed of a matmul, of its links, of the disk."""

import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from megatron_octo.common.files import beside

# Sizes for a GPU, and for a CPU, where they must not slow a start down.
_MATMUL = {"cuda": (8192, torch.bfloat16, 0.4), "cpu": (384, torch.float32, 0.05)}  # n, dtype, seconds
_MESSAGE = {"cuda": 64 << 20, "cpu": 1 << 20}  # bytes
_REDUCE = {"cuda": 256 << 20, "cpu": 1 << 20}
_FILE = {"cuda": 256 << 20, "cpu": 4 << 20}
_PRODUCTS = 10  # at least
_REPEATS = 5


@dataclass(frozen=True)
class Facts:
    """Findings of a rank. Speeds are per second; None: not measured by this rank.

    Attributes:
        device: name of the GPU, or ``CPU``; devices: number of GPUs that the process sees; identity: of the GPU.
        memory_free, memory_total: bytes, of the GPU or of the machine.
        matmul: FLOP/s over some tenths of a second, all ranks at once.
        link: bytes/s to and from its best neighbour.
        disk_free, disk_write: bytes, bytes/s, in the run directory; by the first rank of a host.
        sees_run: whether the host sees a file that rank 0 wrote there.
        problem: why it could not measure.
    """

    rank: int
    host: str
    local_rank: int
    local_world: int
    device: str
    devices: int
    memory_free: int
    memory_total: int
    identity: str | None = None
    matmul: float | None = None
    link: float | None = None
    disk_free: int | None = None
    disk_write: float | None = None
    sees_run: bool | None = None
    problem: str | None = None

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}" + (f", GPU {self.local_rank}" if self.devices else "")


def hosts_of_ranks() -> list[str]:
    """Return the host of every rank. Collective."""
    hosts: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts


def look_around(hosts: list[str], device: torch.device) -> Facts:
    """Return what is known without measuring."""
    rank = dist.get_rank()
    mine = [other for other, host in enumerate(hosts) if host == hosts[rank]]
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device)  # this process's own
        name, count = torch.cuda.get_device_name(device), torch.cuda.device_count()
        identity = str(torch.cuda.get_device_properties(device).uuid)
    else:
        memory = psutil.virtual_memory()
        free, total, name, count, identity = memory.available, memory.total, "CPU", 0, None
    return Facts(rank, hosts[rank], mine.index(rank), len(mine), name, count, free, total, identity)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_speed(device: torch.device) -> float:
    """Return FLOP/s of square matrix products: sustained on a GPU, so that throttling shows.

    On a CPU, which other programs use, too, the best of some products counts: the speed of the cores, not their load.
    """
    size, dtype, seconds = _MATMUL[device.type]
    generator = torch.Generator(device).manual_seed(0)  # the run's random states stay as they are
    a, b = (torch.randn(size, size, dtype=dtype, device=device, generator=generator) for _ in range(2))
    for _ in range(3):
        torch.mm(a, b)
    _wait_for(device)
    times: list[float] = []
    while sum(times) < seconds or len(times) < _PRODUCTS:
        start = time.perf_counter()
        torch.mm(a, b)
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / (min(times) if device.type == "cpu" else sum(times) / len(times))


def neighbours(hosts: list[str]) -> list[list[tuple[int, int]]]:
    """Two rounds of pairs of ranks, so that nearly every rank meets two others.

    On several hosts ranks of the same place meet those of the host before and after; on one host, each other.
    """
    places: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts):
        places.setdefault(host, []).append(rank)
    rows = list(places.values())
    if len(rows) == 1:
        rows = [[rank] for rank in rows[0]]
    rounds = []
    for first in (0, 1):
        # In the second round the last of an even number meets the first.
        ring = [*rows, rows[0]] if first and len(rows) % 2 == 0 and len(rows) > 2 else rows
        pairs = zip(ring[first::2], ring[first + 1 :: 2])
        rounds.append([pair for one, two in pairs for pair in zip(one, two)])
    return [pairs for pairs in rounds if pairs]


def link_speed(hosts: list[str], device: torch.device) -> float | None:
    """Bytes/s that this rank sends while it receives as many, to the better of its neighbours. Collective."""
    rank, size = dist.get_rank(), _MESSAGE[device.type]
    out, back = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    best: float | None = None
    for pairs in neighbours(hosts):
        peer = next((b if rank == a else a for a, b in pairs if rank in (a, b)), None)
        dist.barrier()
        if peer is None:
            continue
        for turn in range(_REPEATS + 1):
            start = time.perf_counter()
            operations = [dist.P2POp(dist.isend, out, peer), dist.P2POp(dist.irecv, back, peer)]
            for work in dist.batch_isend_irecv(operations):
                work.wait()
            _wait_for(device)
            if turn:  # the first makes the connection
                best = max(best or 0.0, size / (time.perf_counter() - start))
    return best


def reduce_speed(device: torch.device) -> float | None:
    """Return the bus bandwidth of an all-reduce in bytes/s: 2 (n - 1) / n of the buffer goes over every link."""
    world = dist.get_world_size()
    if world == 1:
        return None
    buffer = torch.zeros(_REDUCE[device.type], dtype=torch.uint8, device=device)
    dist.all_reduce(buffer)
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(_REPEATS):
        dist.all_reduce(buffer)
    _wait_for(device)
    return 2 * (world - 1) / world * buffer.numel() * _REPEATS / (time.perf_counter() - start)


def write_speed(folder: Path, device: torch.device) -> float:
    """Return bytes/s of writing a file into ``folder``, with fsync; the file is removed.

    Raises:
        OSError: it cannot be written.
    """
    # At most a sixteenth of the free space, and bytes that no file system can compress.
    size = max(1 << 12, min(_FILE[device.type], free_space(folder) // 16))
    block = os.urandom(min(size, 1 << 20))
    path = beside(folder / "preflight")
    try:
        with open(path, "wb", buffering=0) as file:
            start = time.perf_counter()
            for offset in range(0, size, len(block)):
                file.write(block[: size - offset])
            os.fsync(file.fileno())
            return size / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)


def sees(path: Path, seconds: float = 5.0) -> bool:
    """Return whether a file that another host wrote is visible; network file systems may need a moment."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def free_space(folder: Path) -> int:
    """Return the free bytes of the file system of a folder."""
    return shutil.disk_usage(folder).free
