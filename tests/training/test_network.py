"""What ranks have to agree on before they build a network together."""

import os

import pytest
import torch.distributed as dist

from megatron_octo.config import ParallelConfig
from megatron_octo.errors import OctoError
from tests.distributed import run_ranks


def _agree(names: list[str]) -> str:
    from megatron_octo.model.backend import Backend
    from megatron_octo.training.network import _agreed

    name = names[int(os.environ["RANK"])]
    return str(_agreed(Backend("torch", name, False, None)))


def test_all_ranks_take_one_attention() -> None:
    assert run_ranks(3, _agree, ["cuDNN"] * 3) == ["cuDNN"] * 3
    with pytest.raises(OctoError, match=r"Rank 0: cuDNN. Rank 2: flash"):
        run_ranks(3, _agree, ["cuDNN", "cuDNN", "flash"])


def _groups_that_spoke(parallel: ParallelConfig) -> int:
    """How many first words a rank said when the groups were made."""
    import torch

    from megatron_octo.model.grid import Grid

    said = []
    whole = dist.all_reduce

    def listen(tensor: torch.Tensor, group: dist.ProcessGroup) -> None:
        said.append(dist.get_world_size(group))
        whole(tensor, group=group)

    dist.all_reduce = listen
    try:
        Grid.build(parallel, torch.device("cpu"), 0)
    finally:
        dist.all_reduce = whole
    assert all(size > 1 for size in said)
    return len(said)


def test_groups_are_set_up_when_they_are_made() -> None:
    counts = run_ranks(4, _groups_that_spoke, ParallelConfig(tensor=2, pipeline=2))
    assert min(counts) >= 2  # tensor and pipeline at least, on every rank
    assert run_ranks(1, _groups_that_spoke, ParallelConfig()) == [0]
