"""A start changes nothing before training begins; a finished run, changed settings and lost records are said."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_octo.common.files import digest_file
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.runfiles.attempts import read_attempts
from megatron_octo.runfiles.history import changes, contributions
from megatron_octo.runfiles.samples import find_gaps, read_samples
from tests.training.runs import EVERY_STEP, STEPS, TestRun, copy_of, exit_codes, flip, small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    """An undisturbed run on one rank, a checkpoint a step. Nobody changes it: copy it."""
    run = TestRun(tmp_path_factory.mktemp("whole"), corpus, **EVERY_STEP)
    run.train(1)
    return run


def everything(run: TestRun) -> dict[str, str]:
    """Digests of all files, except packing plans, which are a cache."""
    files = [path for path in run.path.rglob("*") if path.is_file() and "plans" not in path.parts]
    return {str(path): digest_file(path) for path in files}


@pytest.mark.slow
def test_a_refused_start_changes_nothing(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2, "keep": 9})
    run.train(2, "train.steps=4")
    before = everything(run)
    flip(run.step(4) / "optimizer-00000.safetensors", -1)  # the data digest is compared before this is read
    damaged = everything(run)
    for overrides, said in (
        ([f"data.train=train: 1.0 0:0.5 {corpus}"], "the data is not what this run was trained on"),
        (["model.hidden_size=64"], "hidden_size 32 (recipe: 64)"),
        (["train.seed=7"], "the data is not what"),
        (["data.tokenizer=nowhere.json"], "nowhere.json"),
    ):
        for preflight in ("none", "warn"):
            text = run.fails(2, *overrides, f"system.preflight={preflight}", "train.steps=6", "optimizer.lr=0.5")
            assert said in text and "damaged" not in text
    assert everything(run) == damaged
    flip(run.step(4) / "optimizer-00000.safetensors", -1)
    assert everything(run) == before


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2})
    run.train(1, "train.steps=2")
    before = everything(run)
    (run.path / "attempts/.001.json.host.1.tmp").write_text("left by a kill while it wrote its end")
    (run.path / "plans").mkdir(exist_ok=True)
    (run.path / "plans/..0123.lock.host.1.tmp").write_text("left by a kill while it took a lease")
    text = run.train(2, "train.steps=2", "optimizer.lr=0.5", "log.interval=3")
    assert "already finished at step 2, nothing was changed; these settings were ignored: " in text
    assert "optimizer.lr: 0.001 -> 0.5" in text and "log.interval: 1 -> 3" in text and "run_dir" not in text
    assert everything(run) == before
    assert not list((run.path / "plans").glob(".*.tmp"))
    flip(run.step(2) / "weights-tp00-pp00.safetensors", -1)  # then it is not finished
    assert "no checkpoint" not in run.fails(1, "train.steps=2")


@pytest.mark.slow
def test_settings_by_attempt(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, checkpoint={"interval": 2, "keep": 9})
    run.train(1, "train.steps=3")
    first = (run.path / "recipe.yaml").read_text()
    run.fails(1, "train.seed=9")
    assert (run.path / "recipe.yaml").read_text() == first
    text = run.train(2, "optimizer.lr=2.0e-3", "checkpoint.init_from=elsewhere", "batch.micro_size=4")
    for line in (
        "changed: optimizer.lr: 0.001 -> 0.002 (the learning rate follows the new curve",
        "changed: checkpoint.init_from: null -> elsewhere (without effect: the run goes on from its own checkpoint)",
        "changed: batch.micro_size: 2 -> 4 (the same steps, computed in other pieces)",
        "changed: train.steps: 3 -> 6 (training ends there",
    ):
        assert line in text
    assert yaml.safe_load((run.path / "recipe.yaml").read_text())["optimizer"]["lr"] == 2e-3
    one, two = contributions(run.path, 6)
    assert (one.attempt, one.first, one.last, one.world) == (1, 1, 3, 1)
    assert (two.attempt, two.first, two.last, two.world) == (2, 4, 6, 2)
    assert {change.key for change in two.changed} >= {"optimizer.lr", "batch.micro_size", "train.steps"}
    assert [each.attempt for each in contributions(run.path, 3)] == [1]
    to_hf(run.path, tmp_path / "hf")
    card = (tmp_path / "hf/README.md").read_text()
    assert "| 1 to 3 | 1 |  |" in card and "| 4 to 6 | 2 | " in card and "`optimizer.lr: 0.001 -> 0.002`" in card
    assert "Recipe of attempt 2:" in card and "  lr: 0.002\n" in card
    shutil.rmtree(run.path / "attempts")
    assert contributions(run.path, 6) == []


def test_changes_know_defaults_of_later_versions() -> None:
    assert [str(change) for change in changes({"a": {"b": 1}, "run_dir": "x"}, {"a": {"b": None}, "run_dir": "y"})] == [
        "a.b: 1 -> null"
    ]


@pytest.mark.slow
def test_lost_checkpoints_and_records_are_said(tmp_path: Path, corpus: Path, whole: TestRun) -> None:
    run = copy_of(whole, tmp_path, corpus, upto=3)
    (run.path / "samples.bin").unlink()
    text = run.train(1, "train.steps=4")
    assert "WARNING: samples.bin is not complete" in text and "no record of samples here" in text
    run.log.unlink()
    assert "steps 1 to 3 have no record" in run.train(1, "train.steps=5")
    shutil.rmtree(run.checkpoints)
    run.log.unlink()
    text = run.train(1)
    assert "WARNING: step 5 was saved, but all checkpoints are gone: a run that recorded steps up to 5" in text
    assert run.curve() == whole.curve()


ODD: dict[str, Any] = {
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "nested": lambda path: path.write_text("[" * 100_000),
    "empty": lambda path: path.write_bytes(b""),
    "null": lambda path: path.write_text("null"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 99),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "dangling": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "fields": lambda path: path.write_text(json.dumps({"format": 2, "tensors": 3, "digest": "x"})),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ODD)
def test_odd_manifests_are_passed_over(tmp_path: Path, corpus: Path, whole: TestRun, kind: str) -> None:
    run = copy_of(whole, tmp_path, corpus)
    ODD[kind](run.step(6) / "manifest.json")
    text = run.train(1)
    assert "WARNING: step-00000006 is damaged and will not be used: manifest.json" in text
    assert "resuming at step 5 " in text and "Traceback" not in text
    assert run.content(6) == whole.content(6)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["start", "data", "gradients", "update", "replicas", "saving", "validation"])
@pytest.mark.parametrize("asynchronous", [True, False], ids=["async", "sync"])
def test_a_sleeper_that_lost_the_run_writes_nothing(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, phase: str, asynchronous: bool
) -> None:
    monkeypatch.setattr("megatron_octo.runfiles.run_lock.STALE", 2.0)
    monkeypatch.setattr("megatron_octo.training.run.HEARTBEAT", 0.5)
    valid = {"data": {"valid": f"v: 1.0 0:1 {corpus}"}, "eval": {"interval": 1, "steps": 1}}
    guard = {"guard": {"replica_interval": 1}} if phase == "replicas" else {}
    saving = {"interval": 1, "keep": 9, "asynchronous": asynchronous}
    run = TestRun(tmp_path, corpus, checkpoint=saving, **valid, **guard)
    step = 0 if phase == "start" else 3
    monkeypatch.setenv("OCTO_FAULT", f"rank=0,step={step},kind=stop,phase={phase},attempt=*")
    (sleeper,) = run.start(1)
    stat = Path(f"/proc/{sleeper.pid}/stat")
    deadline = time.monotonic() + 60
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    monkeypatch.delenv("OCTO_FAULT")
    run.train(1)
    before, samples = everything(run), read_samples(run.path).tolist()
    os.kill(sleeper.pid or 0, signal.SIGCONT)
    assert exit_codes([sleeper]) == [76], run.log.read_text()
    assert "another attempt took over this run" in run.log.read_text()
    after = everything(run)
    mine = {
        path for path in after if "/errors/" in path or "attempt-001.log" in path or path.endswith("attempts/001.json")
    }
    assert {path: after[path] for path in set(after) - mine} == {path: before[path] for path in set(before) - mine}
    assert read_samples(run.path).tolist() == samples and len(samples) == STEPS
    assert find_gaps(read_samples(run.path), STEPS) == []
    assert read_attempts(run.path)[-1].reason == "finished"
