"""LoRA: the same adapters under every layout, nothing of the base in memory twice, and runs that come back exactly."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.architectures.adapters import adapter_parameters, count_adapter_parameters
from megatron_octo.checkpoint.directory import read_manifest
from megatron_octo.config.model import LoraConfig
from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.training import test_layouts
from tests.training.runs import TestRun, small_corpus

EVERYWHERE = ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"]
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": EVERYWHERE}
# The name of a base that these tests do not read: all weights are drawn, adapters too.
SECTIONS: dict[str, Any] = {"lora": LORA, "checkpoint": {"init_from": "drawn"}, "optimizer": {"lr": 1e-2}}
LAYOUTS = {
    "tp2": (2, {"parallel": {"tensor": 2}}),
    "tp4-sp": (4, {"parallel": {"tensor": 4, "sequence": True}}),
    "pp2": (2, {"parallel": {"pipeline": 2}}),
    "dp2": (2, {}),
    "tp2-sp-pp2": (4, {"parallel": {"tensor": 2, "pipeline": 2, "sequence": True}}),
    "tp2-dp2": (4, {"parallel": {"tensor": 2}}),
    "recompute-full": (1, {"train": {"recompute": "full"}}),
    "recompute-mlp": (1, {"train": {"recompute": "mlp"}}),
    "tp2-sp-recompute-full": (
        2,
        {"parallel": {"tensor": 2, "sequence": True}, "train": {"recompute": "full"}},
    ),
    "micro-1": (1, {"batch": {"micro_size": 1}}),
}


def first_steps(recipe: Recipe, steps: int) -> dict[str, Any]:
    """Losses and gradient norms of some steps, and after them this rank's part of each weight and where it lies."""
    found = test_layouts.first_steps(recipe, "packed", steps)
    found["weights"] = {name: (box, value) for name, box, value in found["weights"]}
    return found


def steps_and_memory(recipe: Recipe, steps: int) -> dict[str, Any]:
    """What :func:`first_steps` finds, and for what megatron-core has made room."""
    from megatron_octo.training.engine.network import Network

    built: list[Network] = []
    make = Network.__init__

    def remember(self: Network, *arguments: Any) -> None:
        make(self, *arguments)
        built.append(self)

    Network.__init__ = remember  # type: ignore[method-assign]
    try:
        found = first_steps(recipe, steps)
    finally:
        Network.__init__ = make  # type: ignore[method-assign]
    network = built[0]
    frozen = [parameter for parameter in network.core.parameters() if not parameter.requires_grad]
    assert frozen
    assert all(p.grad is None and not hasattr(p, "main_grad") for p in frozen)
    found["buffers"] = sum(buffer.grad_data.numel() for buffer in network.model.buffers)
    found["state"] = sum(shard.end - shard.start for shard in network.optimizer.shards())
    return found


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory, corpus: Any) -> dict[str, Any]:
    from megatron_octo.recipe.loading import build_recipe
    from tests.conftest import recipe_tree

    recipe = build_recipe(recipe_tree(corpus, tmp_path_factory.mktemp("baseline"), **SECTIONS))
    return dict(run_ranks(1, steps_and_memory, recipe, 4)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_changes_nothing(name: str, make_recipe: Callable[..., Recipe], baseline: dict[str, Any]) -> None:
    world, sections = LAYOUTS[name]
    recipe = make_recipe(**{**SECTIONS, **sections})
    for answer in run_ranks(world, first_steps, recipe, 4):
        assert answer["losses"] == pytest.approx(baseline["losses"], abs=1e-5)
        assert answer["norms"] == pytest.approx(baseline["norms"], abs=1e-5)
        for name, ((offset, shape), value) in answer["weights"].items():
            region = tuple(slice(start, start + extent) for start, extent in zip(offset, shape))
            torch.testing.assert_close(value, baseline["weights"][name][1][region], rtol=0, atol=1e-5)


def test_only_adapters_are_trained_and_take_memory(
    make_recipe: Callable[..., Recipe], baseline: dict[str, Any]
) -> None:
    recipe = make_recipe(**SECTIONS)
    assert recipe.lora is not None
    start = run_ranks(1, first_steps, recipe, 0)[0]["weights"]
    adapters = adapter_parameters(recipe.model, recipe.lora)
    assert len(adapters) == 2 * 4 * recipe.model.num_layers
    for name, (_, value) in baseline["weights"].items():
        assert torch.equal(value, start[name][1]) == (name not in adapters), name
    count = count_adapter_parameters(recipe.model, recipe.lora)
    assert baseline["state"] == count
    assert count <= baseline["buffers"] < 1.1 * count  # padded
    assert baseline["losses"][-1] < baseline["losses"][0]


@pytest.mark.slow
def test_starts_at_the_base_whatever_the_dropout(make_recipe: Callable[..., Recipe]) -> None:
    """B is zero: the first loss is the base's to the last bit."""
    sections = {**SECTIONS, "lora": {**LORA, "dropout": 0.5}}
    layers = {"layers": "mcore"}  # the ones that have adapters; others round differently
    base = run_ranks(1, first_steps, make_recipe(optimizer={"lr": 1e-2}, system=layers), 1)[0]
    adapted = run_ranks(1, first_steps, make_recipe("adapted", **sections), 2)[0]
    plain = run_ranks(1, first_steps, make_recipe("plain", **SECTIONS), 2)[0]
    assert adapted["losses"][0] == base["losses"][0] == plain["losses"][0]
    assert adapted["losses"][1] != plain["losses"][1]


@pytest.mark.slow
@pytest.mark.parametrize("sequence", [False, True])
def test_replicas_drop_alike(sequence: bool, make_recipe: Callable[..., Recipe]) -> None:
    """What tensor ranks hold twice stays equal to the last bit with dropout; recomputation drops the same again."""
    sections = {
        **SECTIONS,
        "lora": {**LORA, "dropout": 0.2},
        "model": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
        "parallel": {"tensor": 2, "sequence": sequence},
    }
    first, second = run_ranks(2, first_steps, make_recipe(**sections), 4)
    again = run_ranks(2, first_steps, make_recipe("again", **sections, train={"recompute": "full"}), 4)
    shared = 0
    for name, (box, value) in first["weights"].items():
        if second["weights"][name][0] == box:
            shared += "lora" in name
            assert torch.equal(value, second["weights"][name][1]), name
        torch.testing.assert_close(value, again[0]["weights"][name][1], rtol=0, atol=1e-6)
    assert shared == 4 * 2  # of each pair one, in both layers
    assert again[0]["losses"] == pytest.approx(first["losses"], abs=1e-6)


def lora_run(folder: Path, corpus: Path, base: Path, name: str, **sections: Any) -> TestRun:
    return TestRun(
        folder,
        corpus,
        name,
        lora={**LORA, "dropout": 0.1},
        model={"hidden_dropout": 0.1},
        **{"checkpoint": {"interval": 3, "init_from": str(base)}, **sections},
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> TestRun:
    folder = tmp_path_factory.mktemp("base")
    run = TestRun(folder, small_corpus(folder), "base", optimizer={"lr": 1e-2})
    run.train(1)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumes_to_the_last_bit(precision: str, base: TestRun, tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    parallel, train = {"tensor": 2, "sequence": True}, {"precision": precision}
    straight = lora_run(tmp_path, corpus, base.path, "straight", parallel=parallel, train=train)
    resumed = lora_run(tmp_path, corpus, base.path, "resumed", parallel=parallel, train=train)
    straight.train(2)
    resumed.train(2, "train.steps=3", "schedule.decay_steps=6")
    assert "resuming at step 3" in resumed.train(2)
    assert resumed.curve() == straight.curve()
    assert resumed.content(6) == straight.content(6)
    manifest = read_manifest(straight.step(6))
    assert manifest.lora == LoraConfig(**{**LORA, "dropout": 0.1})
    kinds = {"weights", "exp_avg", "exp_avg_sq", *(["main"] if precision == "bf16" else [])}
    assert set(manifest.tensors) == kinds
    names = set(adapter_parameters(manifest.model, manifest.lora))
    assert all(set(manifest.tensors[kind]) == names for kind in kinds)


@pytest.mark.slow
def test_resumes_under_another_layout(base: TestRun, tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    plain = {"lora": LORA, "model": {}}
    runs = [TestRun(tmp_path, corpus, name, checkpoint={"init_from": str(base.path)}, **plain) for name in "ab"]
    runs[0].train(1)
    runs[1].train(2, "train.steps=3", "schedule.decay_steps=6", "parallel.tensor=2")
    runs[1].train(2, "parallel.pipeline=2")
    assert [row[1] for row in runs[1].curve()] == pytest.approx([row[1] for row in runs[0].curve()], abs=1e-5)


@pytest.mark.slow
def test_the_base_may_move_and_may_not_change(base: TestRun, tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    first = tmp_path / "first"
    shutil.copytree(base.path, first)
    run = lora_run(tmp_path, corpus, first, "run")
    run.train(1, "train.steps=3", "schedule.decay_steps=6")
    # init_from is a run that goes on: its newest checkpoint is another one now, the adapters' base is the old one.
    more = TestRun(tmp_path, corpus, "first", optimizer={"lr": 1e-2})
    more.train(1, "train.steps=9")
    assert "step-00000009" in more.names()
    run.train(1, "train.steps=4", "schedule.decay_steps=6")

    (tmp_path / "elsewhere").mkdir()
    first.rename(tmp_path / "elsewhere/base")
    text = run.fails(1)
    assert "the weights that these adapters were trained on are not here" in text
    assert "checkpoint.init_from" in text
    text = run.fails(1, f"checkpoint.init_from={tmp_path / 'elsewhere/base'}")  # its newest one
    assert "step-00000009 holds other weights" in text
    moved = tmp_path / "elsewhere/base/checkpoints/step-00000006"
    run.train(1, f"checkpoint.init_from={moved}")
    shard = next(moved.glob("weights-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    text = run.fails(1, f"checkpoint.init_from={moved}", "train.steps=7")
    assert "damaged checkpoint" in text and shard.name in text


@pytest.mark.slow
def test_what_does_not_fit_is_refused(base: TestRun, tmp_path: Path) -> None:
    corpus = small_corpus(tmp_path)
    run = lora_run(tmp_path, corpus, base.path, "run")
    run.train(1, "train.steps=1", "schedule.decay_steps=6")
    assert "the recipe's none" in run.fails(1, "lora=null")
    assert "'rank': 4" in run.fails(1, "lora.rank=8")
    assert "'alpha': 8.0" in run.fails(1, "lora.alpha=9")
    run.train(1, "lora.dropout=0.0", "train.steps=2", "schedule.decay_steps=6")
    whole = TestRun(tmp_path, corpus, "whole")
    assert "this checkpoint holds adapters" in whole.fails(1, f"checkpoint.init_from={run.path}")
    assert "set checkpoint.init_from" in run.fails(1, "checkpoint.init_from=null")
    assert "no 'q_attn' in a gpt_bigcode layer, which has" in run.fails(1, "lora.target_modules=[q_attn]")
    assert "linear_fc1" in run.fails(1, "lora.target_modules=[q_attn]")
