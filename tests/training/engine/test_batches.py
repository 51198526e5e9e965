"""What a micro-batch says of its documents."""

import itertools
from collections.abc import Callable
from pathlib import Path

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
def test_micro_batches_bound_their_documents(make_recipe: Callable[..., Recipe], parallel: dict[str, int]) -> None:
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


def batches_of_an_epoch(recipe: Recipe) -> tuple[int, int, bool]:
    """Rows of an epoch, plans on disk after a loader gave all of them, and whether it gives more."""
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.engine.datasets import open_corpora

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    train = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid).train
    rows = train.rows(0)
    loader = Loader(train, recipe, grid, Position(), rows)
    for _ in range(rows):
        loader.next()
    with pytest.raises(IndexError):
        loader.next()
    loader.close()
    plans = len(list((Path(recipe.run_dir) / "plans").iterdir()))
    for epoch in (1, 2, 3):
        train.rows(epoch)
    train.forget(3)
    left = len(list((Path(recipe.run_dir) / "plans").iterdir()))
    return plans, left, train.rows(1) == rows


def test_a_run_that_ends_with_its_epoch_plans_no_other(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(batch={"global_size": 1, "micro_size": 1})
    assert run_ranks(1, batches_of_an_epoch, recipe) == [(1, 2, True)]  # forgotten plans are made again


@pytest.mark.slow
def test_plans_of_past_epochs_are_removed(tmp_path: Path, corpus: Path) -> None:
    from tests.training.runs import TestRun, small_corpus

    run = TestRun(tmp_path, small_corpus(tmp_path), checkpoint={"interval": 5})
    run.train(2, "train.steps=15")
    assert run.curve()[-1][3] >= 5  # epochs
    assert len(list((run.path / "plans").iterdir())) == 3  # the first, which starts describe, and the last two
