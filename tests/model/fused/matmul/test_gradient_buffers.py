"""Gradients of one step do not reach the next one, although the buffer is not zeroed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.training.engine.test_step_lists import make_loader, make_network


def _gradients_over_rubbish(recipe: Recipe, rubbish: float) -> tuple[int, int, bool]:
    """Return how many gradients are overwritten, how many zeroed, and whether the old content changed no bit."""
    network: Any = make_network(recipe)
    loader = make_loader(network)
    batch = loader.next()
    loader.close()
    parameters = list(network.core.parameters())

    def gradients() -> list[torch.Tensor]:
        network.gradients(batch)
        return [parameter.main_grad.clone() for parameter in parameters]

    expected = gradients()
    written = [parameter for parameter in parameters if hasattr(parameter, "gradient_is_stale")]
    for parameter in parameters:
        parameter.main_grad.fill_(rubbish)
    network.clear_gradients()
    zeroed = [parameter for parameter in parameters if not parameter.main_grad.any()]
    assert all(parameter.gradient_is_stale for parameter in written)
    assert {*written, *zeroed} == {*parameters} and not {*written} & {*zeroed}
    found = gradients()
    assert not any(parameter.gradient_is_stale for parameter in written)
    same = all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    return len(written), len(zeroed), same and all(bool(gradient.any()) for gradient in expected)


@pytest.mark.parametrize(
    ("world", "sections"),
    [
        (1, {}),
        (1, {"train": {"precision": "bf16", "fp8": "current"}}),
        (1, {"train": {"recompute": "full"}}),
        (2, {"parallel": {"tensor": 2, "sequence": True}}),
        (2, {"parallel": {"pipeline": 2}, "train": {"precision": "bf16"}}),
        (2, {}),
    ],
    ids=["alone", "fp8", "recompute", "tp2-sp", "pp2-bf16", "dp2"],
)
def test_old_gradients_are_overwritten(
    world: int, sections: dict[str, Any], make_recipe: Callable[..., Recipe]
) -> None:
    recipe = make_recipe(batch={"global_size": 4, "micro_size": 1}, **sections)
    results = run_ranks(world, _gradients_over_rubbish, recipe, float("nan"))
    for rank, (written, zeroed, same) in enumerate(results):
        assert same
        layers = recipe.model.num_layers // recipe.parallel.pipeline
        last = recipe.parallel.pipeline == 1 or rank == 1
        # Queries, keys and values, projection, two of the feed-forward part; the output.
        assert written == 5 * layers + last
        assert zeroed > 0


def test_gradients_of_megatron_cores_layers_are_zeroed(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(batch={"global_size": 4, "micro_size": 1}, system={"layers": "mcore"})
    [(written, zeroed, same)] = run_ranks(1, _gradients_over_rubbish, recipe, 1e3)
    assert same and not written and zeroed
