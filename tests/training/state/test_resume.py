"""A run in pieces is the run in one piece: bit for bit on the same layout, row for row on any."""

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from tests.conftest import VOCABULARY, write_corpus
from tests.distributed import run_ranks
from tests.training.runs import EVERY_STEP, STEPS, TestRun, copy_of, flip, small_corpus

pytestmark = pytest.mark.slow

DROPOUT = {"model": {"hidden_dropout": 0.1, "attention_dropout": 0.1}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    """An undisturbed run on one rank, a checkpoint a step. Nobody changes it: copy it."""
    run = TestRun(tmp_path_factory.mktemp("whole"), corpus, **EVERY_STEP)
    run.train(1)
    return run


def test_the_corpus_makes_the_run_cross_epochs(whole: TestRun) -> None:
    assert [row[0] for row in whole.curve()] == list(range(1, STEPS + 1))
    assert whole.curve()[-1][3] >= 2
    assert whole.names() == ["latest", *(layout.step_name(step) for step in range(1, STEPS + 1))]
    assert whole.state() | {"status": "finished", "step": 6, "saved": 6, "attempt": 1} == whole.state()
    moments = load_file(whole.step(6) / "optimizer-00000.safetensors")
    assert {name.partition("/")[0] for name in moments} == {"exp_avg", "exp_avg_sq", "random"}
    assert layout.read_manifest(whole.step(6)).state["optimizer_steps"] == 6


STARCODER2 = {
    "architecture": "starcoder2",
    "num_query_groups": 2,
    "rotary_base": 1e4,
    "sliding_window": 8,
    "tied_embeddings": False,
}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "fp32-dropout": (1, {**DROPOUT}),
    "tp2-sp-bf16-dropout": (
        2,
        {**DROPOUT, "train": {"precision": "bf16"}, "parallel": {"tensor": 2, "sequence": True}},
    ),
    "tp2-dropout": (2, {**DROPOUT, "parallel": {"tensor": 2}}),
    "dp2-bf16-dropout": (2, {**DROPOUT, "train": {"precision": "bf16"}}),
    "pp2-dropout": (2, {**DROPOUT, "parallel": {"pipeline": 2}}),
    "starcoder2-pp2-dropout": (
        2,
        {"model": {**DROPOUT["model"], **STARCODER2}, "parallel": {"pipeline": 2}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_two_resumes_are_bitwise_the_same(name: str, tmp_path: Path, corpus: Path) -> None:
    world, sections = LAYOUTS[name]
    # Validation in between must not disturb anything, either.
    sections = {
        **sections,
        "data": {"valid": f"valid: 1.0 0:0.5 {corpus}"},
        "eval": {"interval": 2, "steps": 1},
    }
    one = TestRun(tmp_path, corpus, "one", **sections, checkpoint={"interval": 2, "keep": 9})
    one.train(world)
    pieces = TestRun(tmp_path, corpus, "pieces", **sections, checkpoint={"interval": 2, "keep": 9})
    for steps in (2, 3, STEPS):
        text = pieces.train(world, f"train.steps={steps}")
    assert text.count("everything restored") == 2
    assert pieces.curve() == one.curve()
    assert len(one.curve()) == STEPS
    for step in (2, 4, 6):
        assert pieces.content(step) == one.content(step)
    assert pieces.state()["attempt"] == 3
    assert (pieces.path / "validation.jsonl").read_text().replace('"attempt": 2', '"attempt": 1').replace(
        '"attempt": 3', '"attempt": 1'
    ) == (one.path / "validation.jsonl").read_text()


@pytest.mark.slow
def test_other_attention_than_before_is_said(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2})
    said = "the attempt before computed attention with"
    assert said not in run.train(1, "train.steps=2")
    assert said not in run.train(1, "train.steps=3")
    first, second = (run.path / "attempts" / f"{number:03d}.json" for number in (1, 2))
    record = json.loads(second.read_text())
    assert (record["attention"], record["mlp"]) == ("unfused", "plain")
    second.write_text(json.dumps({**record, "attention": "te", "mlp": "quack"}))
    text = run.train(1, "train.steps=4")
    for what, before in (("attention", "te"), ("mlp", "quack")):
        assert f"computed {what} with {before}: it will not go on to the last bit" in text
    third = run.path / "attempts/003.json"  # of a version that did not say what computed the MLP
    third.write_text(json.dumps({key: value for key, value in json.loads(third.read_text()).items() if key != "mlp"}))
    assert "computed mlp with kernels that it does not name" in run.train(1, "train.steps=5")
    first.write_text("{")
    assert run.train(1, "train.steps=6").count(said) == 1  # the log has all attempts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "parallel"),
    [(1, {}), (2, {}), (2, {"tensor": 2}), (2, {"pipeline": 2}), (4, {"tensor": 2, "sequence": True})],
    ids=["tp1", "dp2", "tp2", "pp2", "tp2-sp-dp2"],
)
def test_resume_on_another_layout(
    tmp_path: Path, corpus: Path, whole: TestRun, world: int, parallel: dict[str, Any]
) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 3})
    run.train(2, "train.steps=3", "parallel.tensor=2")
    text = run.train(world, *(f"parallel.{key}={str(value).lower()}" for key, value in parallel.items()))
    assert ("everything restored" in text) == (parallel == {"tensor": 2})
    assert [row[3:] for row in run.curve()] == [row[3:] for row in whole.curve()]  # the same rows
    for mine, expected in zip(run.curve(), whole.curve(), strict=True):
        assert mine[1] == pytest.approx(expected[1], abs=1e-5)
        assert mine[2] == pytest.approx(expected[2], abs=1e-5)


@pytest.mark.slow
def test_resume_on_other_layers(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2})
    for steps, layers in ((2, "mcore"), (4, "fused"), (STEPS, "mcore")):
        run.train(2, f"train.steps={steps}", "parallel.tensor=2", f"system.layers={layers}")
    for mine, expected in zip(run.curve(), whole.curve(), strict=True):
        assert mine[1:3] == pytest.approx(expected[1:3], abs=1e-5)


def reloaded(recipe: Recipe, checkpoint: Path) -> dict[str, int]:
    """Load a checkpoint into this rank's layout; how many elements it would store of each kind, all as they were."""
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.model.weights import held_parameters
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.state.state_parts import full_part, load_state

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    network, reader = Network(recipe, grid), CheckpointReader(checkpoint)
    network.start_from(None, resumed=True)
    load_state(reader, network.core, network.optimizer, recipe, grid)
    network.optimizer.restored(int(reader.manifest.state["optimizer_steps"]))
    for held in held_parameters(network.core, recipe.model, recipe.compute, grid):
        expected = reader.read(held.spec.name, "weights", held.offset, held.shape)
        assert held.parameter.dtype == expected.dtype and torch.equal(held.parameter, expected), held.key
    part = full_part(network.core, network.optimizer, recipe, grid)
    counts: dict[str, int] = {}
    for kind, entries in part.tensors.items():
        for name, entry in entries.items():
            for fragment in entry.fragments:
                box = fragment.offset, fragment.shape
                start, end = fragment.flat or (0, math.prod(fragment.shape))
                expected = reader.read_flat(name, kind, *box, start, end)
                found = part.files[fragment.file][fragment.key].read().reshape(-1)
                assert found.dtype == torch.float32, (
                    kind,
                    name,
                )  # weights of a bf16 run, too, before they are rounded
                assert torch.equal(found.to(expected.dtype), expected), (kind, name)
                counts[kind] = counts.get(kind, 0) + len(found)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_state_is_the_same_bits_on_any_layout(tmp_path: Path, corpus: Path, precision: str) -> None:
    """Saved at tensor 2 x pipeline 2 + sequence; loaded at others: weights, fp32 weights and both moments."""
    parallel = {"tensor": 2, "pipeline": 2, "sequence": True}
    sections = {"train": {"precision": precision}, "checkpoint": {"interval": 2}}
    run = TestRun(tmp_path, corpus, parallel=parallel, **sections)
    run.train(4, "train.steps=2")
    recipe = load_recipe(str(run.recipe), [])
    kinds = ["weights", "exp_avg", "exp_avg_sq", *(["main"] if precision == "bf16" else [])]
    whole = dict.fromkeys(kinds, count_parameters(recipe.model, padded=True))
    for world, other in (
        (1, {}),
        (2, {}),
        (2, {"tensor": 2}),
        (2, {"pipeline": 2}),
        (4, {"tensor": 4, "sequence": True}),
        (4, {"tensor": 2}),
    ):
        changes = [
            f"parallel.{key}={str({'tensor': 1, 'pipeline': 1, 'sequence': False, **other}[key]).lower()}"
            for key in parallel
        ]
        changed = load_recipe(str(run.recipe), changes)
        answers = run_ranks(world, reloaded, changed, run.step(2))
        assert {kind: sum(answer.get(kind, 0) for answer in answers) for kind in kinds} == whole


@pytest.mark.slow
def test_three_resumes_over_borders_of_epochs(tmp_path: Path, corpus: Path) -> None:
    """Stopped right before each of three steps whose rows are of two epochs."""
    steps = {"train": {"steps": 9}, "model": {"hidden_dropout": 0.1}, "checkpoint": {"interval": 9}}
    one = TestRun(tmp_path, corpus, "one", **steps)
    one.train(2)
    places = [(0, 0), *((epoch, row) for *_, epoch, row in one.curve())]
    borders = [
        step
        for step, (before, after) in enumerate(itertools.pairwise(places))
        if before[0] < after[0] and before[1] and after[1]
    ]
    assert len(borders) >= 3
    pieces = TestRun(tmp_path, corpus, "pieces", **steps)
    for step in borders[:3]:
        pieces.train(2, f"train.steps={step}", "schedule.decay_steps=6")
        assert pieces.state()["step"] == step
    assert pieces.train(2).count("everything restored") == 3
    assert pieces.curve() == one.curve()
    assert pieces.content(9) == one.content(9)


def test_init_from_takes_the_weights_alone(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1, "init_from": str(whole.path)})
    text = run.train(1, "train.steps=1")
    assert f"starting from the weights of {whole.step(6)}" in text
    first = run.curve()[0]
    assert first[3:] == whole.curve()[0][3:]  # from the first row on
    assert first[1] < whole.curve()[0][1] - 0.01  # and what was learned is there
    assert layout.read_manifest(run.step(1)).state["optimizer_steps"] == 1
    # Adam's first step: the first moment is a tenth of the (clipped) gradient, whatever it was in the source.
    moments = load_file(run.step(1) / "optimizer-00000.safetensors")
    for name in [name for name in moments if name.startswith("exp_avg/")]:
        square = moments[name.replace("exp_avg/", "exp_avg_sq/")]
        assert float(((moments[name] / 0.1) ** 2 * 0.05 - square).abs().max()) < 1e-6
    # Once the run has its own checkpoint, that one counts.
    text = run.train(1, "train.steps=2")
    assert "resuming at step 1 " in text


def weights_only(whole: TestRun, target: Path) -> Path:
    """What convert from-hf makes: a checkpoint without optimizer."""
    source = layout.read_manifest(whole.step(6))
    target.mkdir(parents=True)
    name = "weights-tp00-pp00.safetensors"
    shutil.copy(whole.step(6) / name, target)
    fields = {
        **source.__dict__,
        "files": {name: source.files[name]},
        "tensors": {"weights": source.tensors["weights"]},
    }
    layout.write_manifest(target, layout.Manifest(**{**fields, "state": {}, "layout": {}}))
    return target


@pytest.mark.slow
def test_what_cannot_be_resumed_is_refused_by_name(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = copy_of(whole, tmp_path, corpus, upto=2)
    before = {step: run.content(step) for step in (1, 2)}
    text = run.fails(1, "model.hidden_size=64")
    assert "hidden_size 32 (recipe: 64)" in text
    text = run.fails(1, "model.vocab_multiple=2048")
    assert "padded vocabulary 1024 (recipe: 2048)" in text
    other = write_corpus(tmp_path / "other", documents=30, seed=9)
    text = run.fails(1, f"data.train=train: 1.0 0:1 {other}")
    assert "the data is not what this run was trained on" in text
    assert "data.train" in text
    text = run.fails(1, "train.seed=99")
    assert "the data is not what this run was trained on" in text
    text = run.fails(1, "data.seq_length=32")
    assert "the data is not what this run was trained on" in text
    assert {step: run.content(step) for step in (1, 2)} == before
    assert run.names() == ["latest", "step-00000001", "step-00000002"]

    bare = TestRun(tmp_path, corpus, "bare")
    weights_only(whole, bare.step(3))
    text = bare.fails(1)
    assert "weights only" in text
    assert "checkpoint.init_from" in text
    fresh = TestRun(tmp_path, corpus, "fresh", checkpoint={"init_from": str(bare.step(3)), "interval": 0})
    assert "starting from the weights" in fresh.train(1, "train.steps=1")


@pytest.mark.slow
def test_a_damaged_source_of_weights_is_refused(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    source = copy_of(whole, tmp_path / "source", corpus)
    flip(source.step(6) / "weights-tp00-pp00.safetensors", -1)
    run = TestRun(tmp_path, corpus, "new", checkpoint={"init_from": str(source.path)})
    text = run.fails(2)
    assert "damaged checkpoint: weights-tp00-pp00.safetensors has changed" in text
    assert str(source.step(6)) in text
    assert "no such directory" in run.fails(1, f"checkpoint.init_from={tmp_path / 'nowhere'}")


@pytest.mark.slow
def test_another_tokenizer_is_refused(tmp_path: Path, corpus: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(name)
    run = TestRun(tmp_path, corpus, data={"tokenizer": str(tmp_path / "a.json")}, checkpoint={"interval": 1})
    run.train(1, "train.steps=1")
    assert (run.path / "tokenizer.json").read_text() == "a"
    text = run.fails(2, f"data.tokenizer={tmp_path / 'b.json'}")
    assert "this run was made with another tokenizer" in text
    assert str(tmp_path / "b.json") in text
    # Also as the source of weights for another run.
    other = TestRun(
        tmp_path,
        corpus,
        "other",
        data={"tokenizer": str(tmp_path / "b.json")},
        checkpoint={"init_from": str(run.path)},
    )
    assert "another tokenizer than the data" in other.fails(1)
    assert VOCABULARY == 1001
