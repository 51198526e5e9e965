"""TensorBoard and Weights & Biases: real event files, over a restart that computes steps again."""

import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.training.runs import STEPS, TestRun, exit_codes, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.mark.slow
def test_tensorboard_shows_each_step_once(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    valid = {"eval": {"interval": 3, "steps": 1}}
    run = TestRun(tmp_path, corpus, log={"tensorboard": True}, checkpoint={"interval": 2}, **valid)
    words = (f"data.valid=valid: 1.0 0:1 {corpus}",)
    # Steps 3 and 4 are done and not saved; a bug ends the run and leaves its event file open.
    monkeypatch.setenv("OCTO_FAULT", "rank=0,step=4,kind=exception,phase=saving")
    assert set(exit_codes(run.start(2, *words))) == {1}
    monkeypatch.delenv("OCTO_FAULT")
    assert "resuming at step 2" in run.train(2, *words)
    events = EventAccumulator(str(run.path / "tensorboard"), purge_orphaned_data=True)
    events.Reload()
    losses = events.Scalars("train/loss")
    assert [event.step for event in losses] == list(range(1, STEPS + 1))
    assert [event.value for event in losses] == pytest.approx([row[1] for row in run.curve()])
    assert [event.step for event in events.Scalars("valid/loss")] == [3, 6]


@pytest.mark.slow
def test_wandb_is_offline_and_one_run(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what it found before
    run = TestRun(tmp_path, corpus, log={"wandb_project": "tests"}, checkpoint={"interval": 2})
    run.train(2, "train.steps=2")
    assert f"{run.path}/wandb/offline-run-" in run.train(2).replace("./", str(run.path) + "/")
    records = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(records) == 2
    assert len({path.name for path in records}) == 1, "the second start goes on with the run of the first"
    assert all(b"train/loss" in path.read_bytes() for path in records)


def history(path: Path) -> list[dict[str, float]]:
    """The logged values of an offline file: records of protobuf in the blocks of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if 0x8000 - place % 0x8000 < 7:  # the rest of a block is empty
            place += 0x8000 - place % 0x8000
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            items = Record.FromString(whole).history.item
            found += [{(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items}] * bool(items)
            whole = b""
    return found


@pytest.mark.slow
def test_wandb_takes_steps_that_are_computed_again(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    run = TestRun(tmp_path, corpus, log={"wandb_project": "tests"}, checkpoint={"interval": 2})
    run.train(1, "train.steps=4")
    shutil.rmtree(run.step(4))  # as if a kill had come before it was complete
    run.train(1)
    files = sorted((run.path / "wandb").glob("offline-run-*/*.wandb"))
    records = [record for file in files for record in history(file)]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 3, 4, 5, 6]
    counts = [record["_step"] for record in records]
    assert counts == sorted(set(counts)), "what is not above the last one is dropped"


def test_wandb_that_is_not_installed(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name != "wandb" and find(name, *more))
    run = TestRun(tmp_path, corpus)
    assert "wandb is not installed" in run.fails(2, "log.wandb_project=x")
