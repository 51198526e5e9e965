"""What a micro-batch says of its documents."""

import itertools
from collections.abc import Callable

import pytest
import torch

from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks


@pytest.mark.parametrize(
    ("longest", "row", "bound"),
    [
        (1, 8192, 512),
        (512, 8192, 512),
        (513, 8192, 1024),
        (5000, 8192, 8192),
        (5000, 6000, 6000),
        (64, 64, 64),
    ],
)
def test_bounds_of_lengths_are_few(longest: int, row: int, bound: int) -> None:
    from megatron_octo.training.engine.batches import length_bound

    assert length_bound(longest, row) == bound


def lengths(recipe: Recipe) -> list[tuple[list[int], int, int]]:
    """Of some micro-batches: the boundaries, the bound of lengths, whole rows."""
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader, to_device
    from megatron_octo.training.engine.datasets import open_corpora

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
    loader = Loader(corpora.train, recipe, grid, Position())
    micros = [to_device(micro, grid.device) for _ in range(2) for micro in loader.next().micro_batches]
    loader.close()
    return [(micro.boundaries.tolist(), micro.longest, micro.whole_rows) for micro in micros]


@pytest.mark.parametrize("parallel", [{"tensor": 2}, {"pipeline": 2}], ids=["tp2", "pp2"])
def test_micro_batches_bound_their_documents(
    make_recipe: Callable[..., Recipe], parallel: dict[str, int]
) -> None:
    recipe = make_recipe(
        model={"max_position_embeddings": 600},
        data={"seq_length": 600},
        batch={"global_size": 2, "micro_size": 1},
        parallel=parallel,
    )
    first, second = run_ranks(2, lengths, recipe)
    assert first == second  # ranks that share rows share the bound
    bounds = set()
    for boundaries, bound, whole in first:
        found = max(end - start for start, end in itertools.pairwise(boundaries))
        assert bound == (512 if found <= 512 else 600)
        assert not whole
        bounds.add(bound)
    assert 512 in bounds
