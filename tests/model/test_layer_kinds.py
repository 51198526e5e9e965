"""Every kind of norm, MLP, position and bias is computed by megatron-core's layers, alike under tensor parallelism."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from megatron_octo.recipe.loading import build_recipe
from megatron_octo.recipe.schema import Recipe
from tests.architectures.variants import VARIANTS, known
from tests.conftest import recipe_tree
from tests.distributed import run_ranks
from tests.training.test_layouts import OPTIMIZER, TOLERANCE, box_of, whole

LAYOUTS: dict[str, dict[str, Any]] = {
    "alone": {},
    "tp2": {"tensor": 2},
    "tp2-sp": {"tensor": 2, "sequence": True},
    "tp4": {"tensor": 4},
    "tp2-sp-pp2": {"tensor": 2, "pipeline": 2, "sequence": True},
}


def all_steps(recipes: list[Recipe]) -> list[dict[str, Any]]:
    """The first steps of each recipe, in new process groups each time."""
    from megatron.core import parallel_state as mpu

    from tests.training.test_layouts import first_steps

    answers = []
    for recipe in recipes:
        answers.append(first_steps(recipe, "packed", steps=2))
        mpu.destroy_model_parallel()
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By variant and layout, what each rank answers."""
    folder = tmp_path_factory.mktemp("kinds")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with known():
        for world in (1, 2, 4):
            cases, recipes = [], []
            for variant, model in VARIANTS.items():
                for layout, parallel in LAYOUTS.items():
                    tree = recipe_tree(
                        corpus,
                        folder / f"{variant}-{layout}",
                        model=model,
                        parallel=parallel,
                        optimizer=OPTIMIZER,
                        train={"recompute": "mlp" if layout == "tp4" else "none"},
                    )
                    tree["data"]["plan_cache"] = str(folder / "plans")
                    recipe = build_recipe(tree)
                    if recipe.parallel.layout.model_ranks == world:
                        cases.append((variant, layout))
                        recipes.append(recipe)
            by_rank = run_ranks(world, all_steps, recipes, timeout=300)
            found |= {case: [rank[number] for rank in by_rank] for number, case in enumerate(cases)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "alone"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_layouts_agree(variant: str, layout: str, answers: Any) -> None:
    """Losses, gradient norms, gradients and weights of two steps equal those of one process."""
    (alone,) = answers[variant, "alone"]
    weights = whole(alone["weights"])
    gradients = whole(((step, name), box, part) for step, name, box, _, part in alone["gradients"])
    assert 6.0 < alone["losses"][0] < 9.0 and alone["losses"][1] != alone["losses"][0]
    for answer in answers[variant, layout]:
        assert answer["losses"] == pytest.approx(alone["losses"], abs=TOLERANCE)
        assert answer["norms"] == pytest.approx(alone["norms"], abs=TOLERANCE)
        for step, name, box, (start, end), part in answer["gradients"]:
            expected = box_of(gradients[step, name], box).view(-1)[start:end]
            torch.testing.assert_close(part, expected, rtol=0, atol=TOLERANCE)
        for name, box, value in answer["weights"]:
            torch.testing.assert_close(value, box_of(weights[name], box), rtol=0, atol=TOLERANCE)


def parts_beside_torch(recipe: Recipe) -> None:
    """Compare a layer's MLP and norm, with random parameters, with the same written out."""
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.network import Network

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), 0)
    layer = Network(recipe, grid).core.decoder.layers[0]
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    x = torch.randn(5, 1, recipe.model.hidden_size, generator=generator)
    fc1, fc2 = layer.mlp.linear_fc1, layer.mlp.linear_fc2
    inner = F.linear(x, fc1.weight, fc1.bias)
    if recipe.model.activation == "silu":
        gate, up = inner.chunk(2, dim=-1)
        expected = F.linear(F.silu(gate) * up, fc2.weight)
    else:
        expected = F.linear(F.gelu(inner, approximate="tanh"), fc2.weight)
    torch.testing.assert_close(layer.mlp(x)[0], expected)
    norm, epsilon, width = layer.input_layernorm, recipe.model.layernorm_epsilon, (x.size(-1),)
    if "gated_gpt" in recipe.model.architecture:
        expected = F.layer_norm(x, width, norm.weight, norm.bias, epsilon)
    else:
        expected = x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    biased = {name.rpartition(".")[0] for name, _ in layer.named_parameters() if name.endswith("bias")}
    linear = ["self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2"]
    assert biased.issuperset(linear) == (recipe.model.architecture != "llama")


@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_are_what_they_are_called(variant: str, corpus: Path, tmp_path: Path) -> None:
    with known():
        recipe = build_recipe(recipe_tree(corpus, tmp_path / "run", model=VARIANTS[variant]))
        assert recipe.compute.layers == "mcore"
        run_ranks(1, parts_beside_torch, recipe)
