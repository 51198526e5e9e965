"""Processes of torchrun: the choice of a GPU that several may share, and groups that come and go."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from megatron_octo.training.engine.device import own_device


def device_of_this_process(wanted: str = "auto") -> torch.device:
    """Return the device as a run chooses it (``own_device``); processes share GPUs where there are fewer.

    NCCL before 2.30 refuses shared GPUs ("Duplicate GPU detected"); LD_PRELOAD puts a newer one before torch's.
    """
    if int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    return own_device(wanted)


class Processes:
    """Process groups, one per run, made and destroyed: communicators left open add up until none can be made."""

    def __init__(self, device: torch.device):
        self.device = device
        self.store, self.rank, self.world = next(dist.rendezvous("env://"))

    def join(self, ranks: int, purpose: str) -> None:
        """Form a group of the first ``ranks`` processes; ``purpose`` is a name that all of them give alike."""
        gpu = self.device.type == "cuda"
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=dist.PrefixStore(purpose, self.store),
            rank=self.rank,
            world_size=ranks,
        )

    def meet(self, place: str) -> None:
        """Wait until all processes have come to ``place``, members of a group or not."""
        if self.store.add(place, 1) == self.world:
            self.store.set(f"{place}: all", "")
        self.store.wait([f"{place}: all"], timedelta(minutes=10))
