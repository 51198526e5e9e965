"""The loss against its definition in plain float64, and what must not change it."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks

TOKENS = 96


def sharded_loss(recipe: Recipe, logits_TV: Tensor, labels_T: Tensor, weights_T: Tensor) -> tuple[Tensor, ...]:
    """Losses, weighted loss and gradient of this tensor rank's columns."""
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.loss import CrossEntropy, weighted_loss

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    mine = logits_TV.chunk(grid.layout.tensor, dim=1)[grid.tensor_rank].clone().requires_grad_()
    losses = CrossEntropy(recipe.model, recipe.compute, grid)(
        mine * 1.0, labels_T
    )  # the network's logits are no leaf, either
    loss = weighted_loss(losses, weights_T, 7.5)
    loss.backward()
    assert mine.grad is not None
    return losses.detach(), loss.detach(), mine.grad


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize(
    ("vocabulary", "multiple", "dtype"),
    [
        (1001, 128, torch.float32),
        (1024, 128, torch.float32),
        (100, 512, torch.float32),  # at four ranks, three hold nothing but padding
        (1001, 128, torch.bfloat16),
    ],
)
def test_equals_log_softmax_over_the_true_vocabulary(
    make_recipe: Callable[..., Recipe], world: int, vocabulary: int, multiple: int, dtype: torch.dtype
) -> None:
    recipe = make_recipe(model={"vocab_size": vocabulary, "vocab_multiple": multiple}, parallel={"tensor": world})
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (torch.randn(TOKENS, recipe.model.padded_vocab_size, generator=generator) * 4).to(dtype)
    logits[:, vocabulary:] = 50.0  # padding that would win, were it let in
    labels = torch.randint(0, vocabulary, (TOKENS,), generator=generator)
    labels[0], labels[1] = 0, vocabulary - 1
    weights = torch.rand(TOKENS, generator=generator) * (torch.rand(TOKENS, generator=generator) > 0.5)

    exact = logits[:, :vocabulary].double().requires_grad_()
    expected = -torch.log_softmax(exact, dim=1)[torch.arange(TOKENS), labels]
    expected_loss = (expected * weights.double()).sum() / 7.5
    expected_loss.backward()
    assert exact.grad is not None

    answers = run_ranks(world, sharded_loss, recipe, logits, labels, weights)
    for losses, loss, _ in answers:
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses.double(), expected.detach(), rtol=2e-6, atol=2e-6)
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
    gradient = torch.cat([gradient for *_, gradient in answers], dim=1)
    rtol, atol = (1e-5, 1e-7) if dtype == torch.float32 else (1e-2, 1e-3)  # bf16 logits have bf16 gradients
    torch.testing.assert_close(gradient[:, :vocabulary].double(), exact.grad, rtol=rtol, atol=atol)
    assert torch.count_nonzero(gradient[:, vocabulary:]) == 0
    assert torch.count_nonzero(gradient[weights == 0]) == 0


def pretended(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Some loss of a label after a token, so that the data alone can be tested."""
    return 3.0 + np.sin(tokens * 12.9898 + labels * 78.233)


@pytest.mark.parametrize("loss_on", ["targets", "all"])
@pytest.mark.parametrize("norm_target_loss", [False, True])
def test_loss_of_an_epoch_equals_its_definition(
    corpus: Path, tmp_path: Path, loss_on: str, norm_target_loss: bool
) -> None:
    """Over a whole epoch of rows: the mean over tokens, or the mean over documents of their means."""
    from megatron_octo.data.dataset.indexed import IndexedDataset
    from megatron_octo.data.planning.paths import read_groups
    from megatron_octo.data.row_stream import RowStream

    dataset = IndexedDataset(corpus)
    documents = []
    for number in range(len(dataset) * 9 // 10):
        ids, is_target = dataset.document(number)
        learned = is_target[1:] | (loss_on == "all")
        if learned.any():
            documents.append(pretended(ids[:-1].astype(float), ids[1:].astype(float))[learned])
    expected = (
        np.mean([values.mean() for values in documents]) if norm_target_loss else np.concatenate(documents).mean()
    )

    (group,) = read_groups(f"train: 1.0 0:0.9 {corpus}")
    stream = RowStream(
        group,
        RowSettings(seq_length=64, seed=3, loss_on=loss_on, norm_target_loss=norm_target_loss, cache_dir=tmp_path),
    )
    rows = [(0, row) for row in range(stream.rows(0))]
    total = 0.0
    for start in range(0, len(rows), 5):
        batch = stream.batch(rows[start : start + 5])
        losses = pretended(batch.tokens.astype(float), batch.labels.astype(float))
        total += float((losses * batch.weights).sum())
    assert total / stream.weight(rows) == pytest.approx(float(expected), rel=1e-6)
    if norm_target_loss:
        assert stream.weight(rows) == pytest.approx(len(documents))


def step_gradients(recipe: Recipe) -> tuple[float, dict[str, list[tuple[int, int, Tensor]]]]:
    """Loss of the first step, and the reduced gradients that this rank owns, before any update."""
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.model.weights import held_parameters
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.engine.datasets import open_corpora
    from megatron_octo.training.engine.metrics import reduce_totals
    from megatron_octo.training.engine.network import Network

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
    network = Network(recipe, grid)
    network.start_from(None)
    loader = Loader(corpora.train, recipe, grid, Position())
    batch = loader.next()
    loss = reduce_totals(network.gradients(batch), batch, False, grid).loss
    loader.close()
    names = {held.parameter: held.key for held in held_parameters(network.core, recipe.model, recipe.compute, grid)}
    found: dict[str, list[tuple[int, int, Tensor]]] = {}
    for shard in network.optimizer.shards():
        gradient: Any = shard.parameter.main_grad
        piece = gradient.reshape(-1)[shard.start : shard.end].clone()
        found.setdefault(names[shard.parameter], []).append((shard.start, shard.end, piece))
    return loss, found


def gathered(answers: list[Any]) -> dict[str, Tensor]:
    whole: dict[str, list[tuple[int, int, Tensor]]] = {}
    for _, found in answers:
        for name, pieces in found.items():
            whole.setdefault(name, []).extend(pieces)
    for pieces in whole.values():
        pieces.sort(key=lambda piece: piece[0])
        assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
    return {name: torch.cat([piece for *_, piece in pieces]) for name, pieces in whole.items()}


@pytest.mark.parametrize(
    ("norm_target_loss", "layouts"),
    [(False, [(1, 1), (2, 4), (4, 2)]), (True, [(2, 1)])],
    ids=["tokens", "documents"],
)
@pytest.mark.slow
def test_micro_batches_and_replicas_change_no_gradient(
    make_recipe: Callable[..., Recipe], norm_target_loss: bool, layouts: list[tuple[int, int]]
) -> None:
    common = {"train": {"norm_target_loss": norm_target_loss}}
    baseline = run_ranks(1, step_gradients, make_recipe(**common, batch={"micro_size": 8}))
    loss, gradients = baseline[0][0], gathered(baseline)
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-2  # there is something to compare
    for world, micro in layouts:
        answers = run_ranks(world, step_gradients, make_recipe(**common, batch={"micro_size": micro}))
        assert all(answer[0] == pytest.approx(loss, abs=1e-6) for answer in answers)
        found = gathered(answers)
        assert set(found) == set(gradients)
        worst = max(float((found[name] - gradients[name]).abs().max()) for name in gradients)
        assert worst <= 1e-6, (world, micro, worst)
