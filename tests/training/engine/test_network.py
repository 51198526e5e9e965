"""What ranks have to agree on before they build a network together, and what it leaves alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from megatron_octo.common.errors import OctoError
from megatron_octo.config.layout import Layout
from megatron_octo.recipe.schema import Recipe
from tests.conftest import recipe_tree
from tests.distributed import run_ranks


def _agreed_attention(names: list[str]) -> None:
    from megatron_octo.model.attention.backend import Backend
    from megatron_octo.training.engine import network

    name = names[int(os.environ["RANK"])]
    network._agree(Backend("torch", name, False, None), *network._ATTENTION)


def test_all_ranks_take_one_attention() -> None:
    run_ranks(3, _agreed_attention, ["cuDNN"] * 3)
    with pytest.raises(OctoError, match=r"compute attention differently. Rank 0: cuDNN. Rank 2: flash"):
        run_ranks(3, _agreed_attention, ["cuDNN", "cuDNN", "flash"])


def _network_without_quack_on_rank_1(recipe: Recipe) -> dict[str, str]:
    from unittest import mock

    from megatron_octo.model.fused.matmul import matmul_backend as arithmetic
    from tests.training.engine.test_step_lists import make_network

    words = "QuACK" if os.environ["RANK"] == "0" else "torch's"
    with mock.patch.object(arithmetic.Arithmetic, "description", words):
        return make_network(recipe).kernels


def test_all_ranks_take_one_mlp(make_recipe: Callable[..., Recipe]) -> None:
    assert run_ranks(1, _network_without_quack_on_rank_1, make_recipe()) == [{"attention": "unfused", "mlp": "plain"}]
    with pytest.raises(OctoError, match=r"compute the MLP differently. Rank 0: QuACK. Rank 1: torch's") as raised:
        run_ranks(2, _network_without_quack_on_rank_1, make_recipe())
    assert "system.mlp=plain" in str(raised.value)


def _groups_that_spoke(layout: Layout) -> int:
    """How many first words a rank said when the groups were made."""
    import torch

    from megatron_octo.model.platform.grid import Grid

    said = []
    whole = dist.all_reduce

    def listen(tensor: torch.Tensor, group: dist.ProcessGroup) -> None:
        said.append(dist.get_world_size(group))
        whole(tensor, group=group)

    dist.all_reduce = listen
    try:
        Grid.build(layout, torch.device("cpu"), 0)
    finally:
        dist.all_reduce = whole
    assert all(size > 1 for size in said)
    return len(said)


def test_groups_are_set_up_when_they_are_made() -> None:
    counts = run_ranks(4, _groups_that_spoke, Layout(tensor=2, pipeline=2))
    assert min(counts) >= 2  # tensor and pipeline at least, on every rank
    assert run_ranks(1, _groups_that_spoke, Layout()) == [0]


def _draws_of_a_validation(tree: dict[str, Any]) -> list[bool]:
    """Whether each random state is the same after a validation whose kernels draw, and after the same draws outside."""
    import torch
    from megatron.core import tensor_parallel

    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.recipe.loading import build_recipe
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.engine.randomness import random_states

    recipe = build_recipe(tree)
    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    network: Any = Network(recipe, grid)
    network.start_from(None)

    def draw(batch: Any, forward_only: bool) -> torch.Tensor:
        with tensor_parallel.get_cuda_rng_tracker().fork():
            return torch.rand(1) + torch.rand(1)

    def same(before: dict[str, torch.Tensor]) -> bool:
        after = random_states(grid)
        equal = [torch.equal(state, after[key]) for key, state in before.items()]
        assert before.keys() == after.keys() and len(equal) >= 2
        return all(equal)

    network._run = draw
    before = random_states(grid)
    network.evaluate(None)
    kept = same(before)
    draw(None, forward_only=True)
    return [kept, same(before)]


def test_validation_leaves_random_states_alone(tmp_path: Path) -> None:
    assert run_ranks(1, _draws_of_a_validation, recipe_tree(tmp_path / "corpus", tmp_path / "run")) == [[True, False]]
