"""Processes of torchrun's: GPUs that they may share, and groups of them."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_octo.training.engine.device import own_device


def device_of_this_process(wanted: str = "auto") -> torch.device:
    """A run's own choice (``own_device``), but that processes may share GPUs where there are fewer.

    NCCL before 2.30 refuses that ("Duplicate GPU detected"); another can be put before torch's with LD_PRELOAD.
    """
    if int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    return own_device(wanted)


class Processes:
    """Process groups that come and go with each run: communicators left open add up until none can be made."""

    def __init__(self, device: torch.device):
        self.device = device
        self.store, self.rank, self.world = next(dist.rendezvous("env://"))

    def join(self, ranks: int, purpose: str) -> None:
        """The first ones form a group for something that all of them call the same."""
        gpu = self.device.type == "cuda"
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=dist.PrefixStore(purpose, self.store),
            rank=self.rank,
            world_size=ranks,
        )

    def meet(self, place: str) -> None:
        """Wait for all of them, whether they are of a group or not."""
        if self.store.add(place, 1) == self.world:
            self.store.set(f"{place}: all", "")
        self.store.wait([f"{place}: all"], timedelta(minutes=10))
