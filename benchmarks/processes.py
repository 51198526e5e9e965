"""Processes of torchrun's: which GPU is whose, and groups of them."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist


def gpu_of_this_process() -> torch.device:
    """The GPU of this process of torchrun's, made the current one; processes share GPUs where there are fewer.

    NCCL before 2.30 refuses that ("Duplicate GPU detected"); another can be put before torch's with LD_PRELOAD.
    """
    gpus = torch.cuda.device_count()
    if int(os.environ["LOCAL_WORLD_SIZE"]) > gpus:
        os.environ["NCCL_MULTI_RANK_GPU_ENABLE"] = "1"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % gpus)
    torch.cuda.set_device(device)
    return device


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
