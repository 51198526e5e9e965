"""Damaged checkpoints are named and passed over, an operator may roll back, and old ones go."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_file import read_header
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.recipe.schema import Recipe
from tests.distributed import run_ranks
from tests.leftovers import left_by_a_kill
from tests.training.runs import EVERY_STEP, TestRun, copy_of, flip, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    """An undisturbed run on one rank, a checkpoint a step. Nobody changes it: copy it."""
    run = TestRun(tmp_path_factory.mktemp("whole"), corpus, **EVERY_STEP)
    run.train(1)
    return run


def bytes_of_a_restart(recipe: Recipe, folder: Path) -> int:
    """Load the newest checkpoint as a restart does; returns the bytes beyond headers that this rank read."""
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.state.checkpoint_choice import load_newest
    from megatron_octo.training.state.state_parts import load_state

    grid = Grid.build(recipe.parallel.layout, torch.device("cpu"), recipe.train.seed)
    network = Network(recipe, grid)
    network.start_from(None, resumed=True)
    count, read = 0, os.preadv

    def preadv(*arguments: Any) -> int:
        nonlocal count
        done = read(*arguments)
        count += done
        return done

    def load(reader: CheckpointReader) -> None:
        load_state(reader, network.core, network.optimizer, recipe, grid)
        assert str(folder) not in Path("/proc/self/maps").read_text()

    os.preadv = preadv
    try:
        assert load_newest(folder, grid, print, lambda reader: None, load)
    finally:
        os.preadv = read
    return count


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.slow
def test_a_restart_reads_every_byte_once(precision: str, tmp_path: Path, corpus: Path) -> None:
    """Loading and comparing digests take one pass over the files, which are not mapped meanwhile."""
    run = TestRun(tmp_path, corpus, train={"precision": precision}, checkpoint={"interval": 2})
    run.train(2, "train.steps=2")
    recipe = load_recipe(str(run.recipe), [])
    files = sorted(run.step(2).glob("*.safetensors"))
    wanted = sum(path.stat().st_size - len(read_header(path)[1]) for path in files)
    # An fp32 run's weights lie in another order than the optimizer updates them: their digest takes a second pass.
    again = (run.step(2) / "weights-tp00-pp00.safetensors").stat().st_size if precision == "fp32" else 0
    assert wanted <= sum(run_ranks(2, bytes_of_a_restart, recipe, run.step(2).parent)) <= wanted + again


DAMAGES = {
    "flipped": (
        lambda path: flip(path / "weights-tp00-pp00.safetensors", -1),
        "has changed since it was written",
    ),
    "truncated": (
        lambda path: (path / "optimizer-00000.safetensors").write_bytes(
            (path / "optimizer-00000.safetensors").read_bytes()[:-5]
        ),
        "optimizer-00000.safetensors has",
    ),
    "file gone": (lambda path: (path / "weights-tp00-pp00.safetensors").unlink(), "is missing"),
    "manifest gone": (lambda path: (path / "manifest.json").unlink(), "manifest.json: no such file"),
    "manifest cut": (lambda path: (path / "manifest.json").write_text('{"format": 1,'), "not valid JSON"),
    "manifest flipped": (
        lambda path: (path / "manifest.json").write_text(
            (path / "manifest.json").read_text().replace('"row": ', '"row": 1', 1)
        ),
        "manifest.json has changed",
    ),
}


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over_aloud(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    """All kinds of damage one after the other: each costs the newest checkpoint, the one before it serves."""
    run = copy_of(whole, tmp_path, corpus)
    (run.checkpoints / ".step-00000007.tmp").mkdir()
    (run.checkpoints / ".step-00000007.tmp" / "weights-tp00-pp00.safetensors").write_bytes(b"half")
    (run.path / "attempts").mkdir(exist_ok=True)
    page = left_by_a_kill(run.path / "report.html")  # which may still be being written
    for name in ("state.json", "preflight", "attempts/001.json", "checkpoints/latest"):
        left_by_a_kill(run.path / name)
    for kind, damaged in zip(list(DAMAGES)[:3], ((6, 5), (6,), (6, 5, 4)), strict=True):
        damage, message = DAMAGES[kind]
        for step in damaged:
            damage(run.step(step))
        run.log.unlink(missing_ok=True)
        text = run.train(1)
        for step in damaged:
            assert f"WARNING: {layout.step_name(step)} is damaged and will not be used" in text, kind
        assert message in text
        assert f"resuming at step {damaged[-1] - 1} " in text
        assert run.curve() == whole.curve()
        assert run.content(6) == whole.content(6)
    assert list(run.path.rglob(".*")) == [page], "what training left half written is gone"


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(DAMAGES)[3:])
def test_damaged_manifests_are_passed_over_aloud(tmp_path: Path, corpus: Path, whole: TestRun, kind: str) -> None:
    run = copy_of(whole, tmp_path, corpus)
    damage, message = DAMAGES[kind]
    damage(run.step(6))
    text = run.train(1)
    assert "WARNING: step-00000006 is damaged and will not be used: manifest.json" in text
    assert message in text
    assert "resuming at step 5 " in text
    assert run.content(6) == whole.content(6)


def test_nothing_good_is_not_nothing(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = copy_of(whole, tmp_path, corpus)
    damage, _ = DAMAGES[next(iter(DAMAGES))]
    for path in layout.list_checkpoints(run.checkpoints):
        damage(path)
    before = run.names()
    text = run.fails(1)
    assert f"none of the {len(before) - 1} checkpoints is whole" in text and str(run.checkpoints) in text
    assert run.names() == before


@pytest.mark.slow
def test_an_operator_rolls_back(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = copy_of(whole, tmp_path, corpus)
    layout.set_latest(run.checkpoints, "step-00000002")
    text = run.train(1, "train.steps=3", "checkpoint.keep=2", "optimizer.clip_grad=0.5")
    assert "resuming at step 2 " in text
    # Of the past two stay; the future that was abandoned is not ours to delete.
    assert run.names() == ["latest", *(layout.step_name(step) for step in (2, 3, 4, 5, 6))]
    assert (run.checkpoints / "latest").read_text() == "step-00000003\n"
    # The next start goes on from there, and not from the old future; also when 3 turns out damaged.
    flip(run.step(3) / "weights-tp00-pp00.safetensors", -1)
    text = run.train(1, "train.steps=4", "checkpoint.keep=2")
    assert "resuming at step 2 " in text.rpartition("WARNING")[2]
    # Step 4 of the old future was replaced.
    assert run.content(4) == whole.content(4)
    assert run.names() == ["latest", *(layout.step_name(step) for step in (3, 4, 5, 6))]


@pytest.mark.slow
def test_keep_last(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 1, "keep": 2})
    run.train(1)
    assert run.names() == ["latest", "step-00000005", "step-00000006"]
    assert run.content(6) == whole.content(6)
    never = TestRun(tmp_path, corpus, "never", checkpoint={"interval": 0})
    never.train(1, "train.steps=2")
    assert never.names() == []


def test_a_start_removes_what_a_kill_left(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    """Killed while ``latest`` was written, or between the last checkpoint's commit and the oldest one's removal."""
    run = copy_of(whole, tmp_path, corpus)
    (run.checkpoints / ".step-00000002.removed").mkdir()
    (run.checkpoints / ".step-00000002.removed" / "weights-tp00-pp00.safetensors").write_bytes(b"x")
    (run.checkpoints / ".latest.node-1.123.tmp").write_text("step-0000")
    text = run.train(1, "checkpoint.keep=2")
    assert "already finished at step 6" in text
    assert run.names() == ["latest", "step-00000005", "step-00000006"]
    assert run.content(6) == whole.content(6)
