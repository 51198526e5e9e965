"""What a recipe resolves to: which layers compute it, and refusals before anything starts."""

from collections.abc import Callable
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.schema import Recipe

WINDOW = {
    "architecture": "starcoder2",
    "num_query_groups": 2,
    "rotary_base": 1e4,
    "sliding_window": 16,
    "tied_embeddings": False,
}


@pytest.mark.parametrize(
    ("model", "fused"),
    [
        ({}, True),
        ({"num_query_groups": 4}, False),
        ({"tied_embeddings": False}, False),
        (WINDOW, False),
    ],
)
def test_fused_layers_take_models_that_they_compute(
    model: dict[str, Any], fused: bool, make_recipe: Callable[..., Recipe]
) -> None:
    assert make_recipe(model=model).compute.fused == fused
    assert make_recipe(model=model, system={"layers": "mcore"}).compute.layers == "mcore"
    asked = make_recipe(model=model, system={"layers": "fused"})
    if fused:
        assert asked.compute.fused
    else:
        with pytest.raises(OctoError, match="the fused layers"):
            _ = asked.compute


def test_fields_are_the_keys_of_the_recipe(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(
        parallel={"tensor": 2, "sequence": True},
        train={"precision": "bf16", "recompute": "mlp", "seed": 5},
        system={"deterministic": True, "layers": "mcore"},
        batch={"micro_size": 2},
    )
    compute = recipe.compute
    assert (compute.layout.tensor, compute.layout.sequence, compute.precision) == (2, True, "bf16")
    assert (compute.recompute, compute.seed, compute.deterministic) == ("mlp", 5, True)
    assert compute.micro_tokens == 2 * recipe.data.seq_length
    changed = recipe.model_copy(update={"train": recipe.train.model_copy(update={"seed": 6})})
    assert changed.compute.seed == 6 and recipe.compute is compute


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"precision": "fp32"}}, "for bf16 alone, not fp32"),
        ({"train": {"precision": "bf16", "fp8": "current"}}, "for bf16 alone, not fp8"),
        ({"train": {"precision": "bf16"}, "system": {"layers": "mcore"}}, "for the fused layers"),
    ],
)
def test_quack_where_it_does_not_apply(
    sections: dict[str, Any], words: str, make_recipe: Callable[..., Recipe]
) -> None:
    """Refused without a GPU and before anything starts, for the planner, too."""
    sections = {**sections, "system": {**sections.get("system", {}), "mlp": "quack"}}
    with pytest.raises(OctoError, match=words):
        _ = make_recipe(**sections).compute
