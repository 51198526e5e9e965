"""The process grid: this rank's place in tensor, pipeline and data parallelism, and its process groups."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Self

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from megatron.core import tensor_parallel

from megatron_octo.common.errors import OctoError, users_mistake
from megatron_octo.config.layout import Layout

# Distance of random seeds between pipeline stages and data-parallel replicas; megatron-core adds up to a few thousand.
_SEED_STRIDE = 10_000


@dataclass(frozen=True)
class Grid:
    """Place of this rank. Ranks are ordered tensor, data, pipeline, so that a tensor group stays in one node."""

    rank: int
    world: int
    device: torch.device
    layout: Layout
    tensor_rank: int
    pipeline_rank: int
    data_rank: int

    @classmethod
    def build(
        cls,
        layout: Layout,
        device: torch.device,
        seed: int,
        timeout: timedelta = timedelta(minutes=30),
    ) -> Self:
        """Create megatron-core's process groups with a time-out, and seed this rank's random generators."""
        world = dist.get_world_size()
        mpu.initialize_model_parallel(
            tensor_model_parallel_size=layout.tensor,
            pipeline_model_parallel_size=layout.pipeline,
            create_gloo_process_groups=False,
            distributed_timeout_minutes=math.ceil(timeout / timedelta(minutes=1)),
        )
        grid = cls(
            rank=dist.get_rank(),
            world=world,
            device=device,
            layout=layout.over(world),
            tensor_rank=mpu.get_tensor_model_parallel_rank(),
            pipeline_rank=mpu.get_pipeline_model_parallel_rank(),
            data_rank=mpu.get_data_parallel_rank(),
        )
        grid.seed(seed)
        grid._open_groups()
        return grid

    def _open_groups(self) -> None:
        """Run a first collective in each group that a run uses. Collective.

        NCCL sets a group up in its first collective: a rank that hangs in it hangs here, not in a backward pass.
        """
        data = mpu.get_data_parallel_group
        groups = [
            mpu.get_tensor_model_parallel_group(),
            mpu.get_pipeline_model_parallel_group(),
            mpu.get_embedding_group(False),
            mpu.get_position_embedding_group(False),
            data(),
            data(with_context_parallel=True),
            data(with_context_parallel=True, with_gtp_remat=False, partial_data_parallel=True),
            mpu.get_intra_distributed_optimizer_instance_group(False),
        ]
        for group in dict.fromkeys(groups):
            if group is not None and dist.get_world_size(group) > 1:
                dist.all_reduce(torch.zeros(1, device=self.device), group=group)

    def seed(self, seed: int) -> None:
        """Seed dropout: alike over the tensor ranks of a replica where they hold the same activations, else not."""
        replica = self.pipeline_rank + self.layout.pipeline * self.data_rank
        tensor_parallel.model_parallel_cuda_manual_seed(seed + _SEED_STRIDE * replica, force_reset_rng=True)
        torch.manual_seed(seed + _SEED_STRIDE * replica)

    def main_first[Result](self, work: Callable[[], Result]) -> Result:
        """Call ``work`` on rank 0, then on the others, which find on disk what it wrote. Collective.

        A user's mistake on rank 0 is raised on all ranks, so none waits for a rank that has left.
        """
        mistake: list[OctoError | None] = [None]
        result: list[Result] = []
        if self.is_main:
            try:
                result.append(work())
            except OctoError as error:
                mistake = [error]
            except OSError as error:
                mistake = [users_mistake(error)]
                if mistake[0] is None:
                    raise
        dist.broadcast_object_list(mistake, src=0)
        if mistake[0]:
            raise mistake[0]
        return result[0] if result else work()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the embeddings."""
        return self.pipeline_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.pipeline_rank == self.layout.pipeline - 1

    @property
    def counts_loss(self) -> bool:
        """Whether this rank reports its replica's loss: tensor rank 0 of the last stage."""
        return self.is_last_stage and self.tensor_rank == 0

    @property
    def data_group(self) -> dist.ProcessGroup:
        """Ranks with the same part of the model."""
        group: dist.ProcessGroup = mpu.get_data_parallel_group()
        return group

    @property
    def tensor_group(self) -> dist.ProcessGroup:
        """Tensor ranks of this replica and stage."""
        group: dist.ProcessGroup = mpu.get_tensor_model_parallel_group()
        return group


@contextmanager
def lone_grid(device: torch.device) -> Iterator[Grid]:
    """Provide a grid of this process alone, to build a network outside of a run; its process groups are removed."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Grid.build(Layout(), device, seed=0)
    finally:
        mpu.destroy_model_parallel()
        dist.destroy_process_group()
