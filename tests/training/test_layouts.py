"""The same model, whatever the layout: loss, gradient norm, every gradient and every weight of the first steps.

All cases of one world size run one after the other in one start of its ranks.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.support.rows import ROWS, rearranged
from megatron_octo.recipe.loading import build_recipe
from megatron_octo.recipe.schema import Recipe
from tests.conftest import recipe_tree
from tests.distributed import run_ranks

pytestmark = pytest.mark.slow

STEPS = 5
TOLERANCE = 1e-5  # fp32, of losses near 7, gradient norms near 1, weights near 0.1
# Adam divides a gradient by its own size. Where there is none (softmax ignores the key's bias) it would divide rounding
# noise by rounding noise and move a weight by the learning rate; this epsilon keeps noise small.
OPTIMIZER = {"eps": 1e-4}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone": (1, {}),
    "tp2": (2, {"parallel": {"tensor": 2}}),
    "tp2-sp": (2, {"parallel": {"tensor": 2, "sequence": True}}),
    "tp4": (4, {"parallel": {"tensor": 4}}),
    "tp4-sp": (4, {"parallel": {"tensor": 4, "sequence": True}}),
    "pp2": (2, {"parallel": {"pipeline": 2}}),
    "dp2": (2, {}),
    "dp4": (4, {}),
    "tp2-sp-pp2": (4, {"parallel": {"tensor": 2, "pipeline": 2, "sequence": True}}),
    "tp2-dp2": (4, {"parallel": {"tensor": 2}}),
    "pp2-dp2": (4, {"parallel": {"pipeline": 2}}),
    "recompute-full": (1, {"train": {"recompute": "full"}}),
    "recompute-mlp": (1, {"train": {"recompute": "mlp"}}),
    "tp2-sp-recompute-full": (
        2,
        {"parallel": {"tensor": 2, "sequence": True}, "train": {"recompute": "full"}},
    ),
    "micro-1": (1, {"batch": {"micro_size": 1}}),
    "micro-8": (1, {"batch": {"micro_size": 8}}),
    "vocabulary-padded-more": (2, {"model": {"vocab_multiple": 512}, "parallel": {"tensor": 2}}),
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {},
    "gpt_bigcode-gelu": {"activation": "gelu"},
    # Two key/value heads, so that pairs of four tensor ranks share one; an output layer of its own, on the last stage.
    "starcoder2": {
        "architecture": "starcoder2",
        "num_query_groups": 2,
        "rotary_base": 1e4,
        "sliding_window": 16,
        "tied_embeddings": False,
    },
    "gpt_bigcode-fp8": {},
}
TRAIN: dict[str, dict[str, Any]] = {"gpt_bigcode-fp8": {"fp8": "current"}}
# Architecture, layers, layout, rows.
Case = tuple[str, str, str, str]
CASES: list[Case] = [
    *(("gpt_bigcode", "fused", layout, "packed") for layout in LAYOUTS),
    *(("gpt_bigcode", "fused", layout, rows) for layout in ("alone", "tp2-sp", "pp2-dp2") for rows in ROWS[1:]),
    *(
        ("gpt_bigcode", "mcore", layout, "packed")
        for layout in ("tp2", "tp2-sp-pp2", "recompute-full", "recompute-mlp")
    ),
    *(("gpt_bigcode-gelu", "fused", layout, "packed") for layout in ("alone", "tp2-sp", "recompute-mlp")),
    *(
        ("starcoder2", "mcore", layout, "packed")
        for layout in ("tp2", "tp2-sp", "tp4", "pp2", "tp2-sp-pp2", "recompute-full")
    ),
    ("starcoder2", "mcore", "alone", "padded"),
    # Layouts that cut no tensor: another cut has another maximum, and rounds otherwise.
    *(("gpt_bigcode-fp8", "fused", layout, "packed") for layout in ("pp2", "dp2", "recompute-full", "recompute-mlp")),
]
# Those that do, and round otherwise.
CUT_FP8: list[Case] = [("gpt_bigcode-fp8", "fused", layout, "packed") for layout in ("tp2", "tp2-sp", "tp2-sp-pp2")]
# One rank, megatron-core's layers, packed rows: what all others are compared with. On the CPU only ours round to fp8.
BASELINES: dict[str, Case] = {
    architecture: (architecture, "fused" if architecture in TRAIN else "mcore", "alone", "packed")
    for architecture in ARCHITECTURES
}


def first_steps(recipe: Recipe, rows: str, steps: int = STEPS) -> dict[str, Any]:
    """Losses and gradient norms of a few steps, this rank's gradients in them, and its weights after them."""
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.model.weights import held_parameters
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.engine.datasets import open_corpora
    from megatron_octo.training.engine.metrics import reduce_totals
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.engine.schedule import learning_rate

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
    network = Network(recipe, grid)
    network.start_from(None)
    loader = Loader(corpora.train, recipe, grid, Position())
    held = list(held_parameters(network.core, recipe.model, recipe.compute, grid))
    losses, norms, gradients = [], [], []
    for step in range(1, steps + 1):
        batch = rearranged(loader.next(), rows, recipe)
        loss = network.gradients(batch)
        # Reduced gradients lie, as Adam's state does, with the data-parallel rank that will update the weights.
        for shard in network.optimizer.shards():
            flat = shard.parameter.main_grad.reshape(-1)
            for each in (each for each in held if each.parameter is shard.parameter):
                low, high = max(shard.start, each.start), min(shard.end, each.end)
                if low < high:
                    place = (low - each.start, high - each.start)
                    box = each.offset, each.shape
                    gradients.append((step, each.spec.name, box, place, flat[low:high].clone()))
        norms.append(network.optimizer.step(learning_rate(recipe, step)))
        losses.append(reduce_totals(loss, batch, None, grid).loss)
    loader.close()
    weights = [(e.spec.name, (e.offset, e.shape), e.values.clone()) for e in held]
    return {"losses": losses, "norms": norms, "gradients": gradients, "weights": weights}


def all_first_steps(cases: list[tuple[Recipe, str]]) -> list[dict[str, Any]]:
    """Every case on this rank, in new process groups each time."""
    from megatron.core import parallel_state as mpu

    answers = []
    for recipe, rows in cases:
        answers.append(first_steps(recipe, rows))
        mpu.destroy_model_parallel()
    return answers


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> dict[Case, list[dict[str, Any]]]:
    """Of every case, what each rank answers."""
    folder = tmp_path_factory.mktemp("layouts")
    found: dict[Case, list[dict[str, Any]]] = {}
    for world in (1, 2, 4):
        cases = [
            case for case in dict.fromkeys([*BASELINES.values(), *CASES, *CUT_FP8]) if LAYOUTS[case[2]][0] == world
        ]
        recipes = []
        for architecture, layers, layout, rows in cases:
            sections = LAYOUTS[layout][1]
            model = {**ARCHITECTURES[architecture], **sections.get("model", {})}
            name = "-".join((architecture, layers, layout, rows))
            train = {**TRAIN.get(architecture, {}), **sections.get("train", {})}
            changed = {**sections, "optimizer": OPTIMIZER, "model": model, "train": train}
            tree = recipe_tree(corpus, folder / name, **changed)
            tree["system"]["layers"] = layers
            tree["data"]["plan_cache"] = str(folder / "plans")
            recipes.append((build_recipe(tree), rows))
        by_rank = run_ranks(world, all_first_steps, recipes, timeout=300)
        found |= {case: [rank[number] for rank in by_rank] for number, case in enumerate(cases)}
    return found


def box_of(whole: Tensor, box: tuple[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """A box of a tensor; where it reaches beyond (other layouts pad the vocabulary more) there are zeros."""
    found = torch.zeros(box[1])
    inside = whole[tuple(slice(start, start + extent) for start, extent in zip(*box))]
    found[tuple(slice(0, extent) for extent in inside.shape)] = inside
    return found


def whole(pieces: Iterable[tuple[Any, tuple[tuple[int, ...], tuple[int, ...]], Tensor]]) -> dict[Any, Tensor]:
    """Tensors by name from the boxes that one rank holds of them: the fused layers hold some in two."""
    boxes: dict[Any, list[Any]] = {}
    for name, box, value in pieces:
        boxes.setdefault(name, []).append((box, value))
    found = {}
    for name, parts in boxes.items():
        ends = [[start + extent for start, extent in zip(*box)] for box, _ in parts]
        found[name] = torch.zeros([max(axis) for axis in zip(*ends)])
        for (offset, shape), value in parts:
            inside = tuple(slice(start, start + extent) for start, extent in zip(offset, shape))
            found[name][inside] = value.view(shape)
    return found


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_nothing_changes(case: Case, answers: dict[Case, list[dict[str, Any]]]) -> None:
    baseline = answers[BASELINES[case[0]]][0]
    weights = whole((name, box, value) for name, box, value in baseline["weights"])
    gradients = whole(((step, name), box, part) for step, name, box, _, part in baseline["gradients"])
    seen = dict.fromkeys(gradients, 0)
    for answer in answers[case]:
        assert answer["losses"] == pytest.approx(baseline["losses"], abs=TOLERANCE)
        assert answer["norms"] == pytest.approx(baseline["norms"], abs=TOLERANCE)
        for step, name, box, (start, end), part in answer["gradients"]:
            expected = box_of(gradients[step, name], box).view(-1)[start:end]
            torch.testing.assert_close(part, expected, rtol=0, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
            seen[step, name] += end - start
        for name, box, value in answer["weights"]:
            torch.testing.assert_close(value, box_of(weights[name], box), rtol=0, atol=TOLERANCE)
    # All of them were there: copies count twice.
    assert all(seen[key] >= math.prod(gradients[key].shape) for key in gradients)


def test_there_is_something_to_compare(answers: dict[Case, list[dict[str, Any]]]) -> None:
    for case in BASELINES.values():
        (answer,) = answers[case]
        assert all(6.0 < loss < 9.0 for loss in answer["losses"])  # ln(1001) = 6.9
        assert min(answer["losses"]) < answer["losses"][0] - 0.01
        assert len(answer["gradients"]) == STEPS * len(answer["weights"])
        assert max(float(part.abs().max()) for *_, part in answer["gradients"]) > 1e-2


def error_of_first_gradients(case: Case, answers: dict[Case, list[dict[str, Any]]]) -> float:
    """Relative, of all gradients of the first step together, beside those without rounding."""
    baseline = answers[BASELINES["gpt_bigcode"]][0]
    exact = whole((name, box, part) for step, name, box, _, part in baseline["gradients"] if step == 1)
    error = size = 0.0
    for answer in answers[case]:
        for step, name, box, (start, end), part in answer["gradients"]:
            if step == 1:
                expected = box_of(exact[name], box).view(-1)[start:end]
                error += float((part - expected).square().sum())
                size += float(expected.square().sum())
    return math.sqrt(error / size)


@pytest.mark.parametrize("case", CUT_FP8, ids="-".join)
def test_fp8_of_cut_tensors(case: Case, answers: dict[Case, list[dict[str, Any]]]) -> None:
    """They are rounded otherwise, but not by more."""
    baseline = answers[BASELINES[case[0]]][0]
    for answer in answers[case]:
        assert answer["losses"] == pytest.approx(baseline["losses"], rel=2e-3)
    alone = error_of_first_gradients(BASELINES[case[0]], answers)
    assert 1e-3 < error_of_first_gradients(case, answers) < 1.3 * alone < 0.2


def test_fp8_rounds_and_learns_the_same(answers: dict[Case, list[dict[str, Any]]]) -> None:
    (exact,), (rounded,) = (answers[BASELINES[name]] for name in ("gpt_bigcode", "gpt_bigcode-fp8"))
    assert rounded["losses"] == pytest.approx(exact["losses"], rel=1e-2)
    assert rounded["losses"] != pytest.approx(exact["losses"], abs=TOLERANCE)
