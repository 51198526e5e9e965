"""Watching a run: each save is scored once, in order, whatever comes and goes meanwhile."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.watch import LONGEST_DELAY, find_saves, watch
from megatron_octo.runfiles.scores import read_scores
from tests.training.runs import TestRun, small_corpus

SCORE = {"pass@1": {"value": 20.0, "low": 3.6, "high": 62.5}, "problems": 5, "samples": 5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of six steps: weights after 2, 4 and 6, checkpoints after 3 and 6."""
    folder = tmp_path_factory.mktemp("watched")
    made = TestRun(folder, small_corpus(folder), checkpoint={"interval": 3, "keep": 9, "weights_every": 2})
    made.train(1)
    return made.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


class Evaluation:
    """Stands for the evaluation of a model: writes its scores, and what it was asked."""

    def __init__(self, during: Callable[[Path], None] = lambda model: None) -> None:
        self.asked: list[str] = []
        self._during = during

    def __call__(self, model: Path, output: Path) -> None:
        self.asked.append(f"{model.parent.name} {layout.step_of(model)}")
        self._during(model)
        layout.read_manifest(model)
        (output / "model").mkdir(parents=True)
        (output / "scores.json").write_text(json.dumps({"tasks": {"a-python": SCORE}}))


def no_waiting(seconds: float) -> None:
    raise AssertionError("a finished run leaves nothing to wait for")


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_each_save_is_scored_once(run: Path, tmp_path: Path) -> None:
    before = files(run)
    evaluation, said = Evaluation(), list[str]()
    assert watch(run, tmp_path / "out", evaluation, say=said.append, sleep=no_waiting) == 0
    assert evaluation.asked == ["weights 2", "checkpoints 3", "weights 4", "weights 6"]
    lines = read_scores(run)
    assert [(line.step, line.attempt, line.kind) for line in lines] == [
        (2, 1, "weights"),
        (3, 1, "checkpoints"),
        (4, 1, "weights"),
        (6, 1, "weights"),
    ]
    assert str(lines[0].tasks["a-python"].passes["1"]) == "20.0 % [3.6, 62.5]"
    assert "step 2: a-python: pass@1 20.0 % [3.6, 62.5]" in said and said[-1].endswith("scored saves: 4")
    assert not list(tmp_path.glob("out/*/model")), "exports are as large as the model"
    after = files(run)
    assert after.pop("scores.jsonl") and after == before, "nothing else is written into the run"
    again = Evaluation()
    assert watch(run, tmp_path / "other", again, say=said.append, sleep=no_waiting) == 0
    assert again.asked == []


def test_waits_for_saves_until_the_run_is_finished(run: Path, tmp_path: Path) -> None:
    """Delays grow to their limit, and begin anew after a save."""
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**state, "status": "running", "step": 4}))
    (run / "weights/step-00000006").rename(tmp_path / "later")
    shutil.rmtree(run / "checkpoints")
    delays: list[float] = []

    def sleep(seconds: float) -> None:
        delays.append(seconds)
        if len(delays) == 20:
            (tmp_path / "later").rename(run / "weights/step-00000006")
        if len(delays) == 22:
            (run / "state.json").write_text(json.dumps(state))

    evaluation = Evaluation()
    assert watch(run, tmp_path / "out", evaluation, say=lambda line: None, sleep=sleep) == 0
    assert evaluation.asked == ["weights 2", "weights 4", "weights 6"]
    assert len(delays) == 22 and max(delays) == delays[19] == LONGEST_DELAY and delays[20] == delays[0] < 5
    (run / "state.json").write_text(json.dumps({**state, "status": "stopped", "step": 4}))
    assert watch(run, tmp_path / "out", evaluation, once=True, say=lambda line: None, sleep=no_waiting) == 0


def test_a_save_that_vanishes_is_passed_over(run: Path, tmp_path: Path) -> None:
    def prune(model: Path) -> None:
        if layout.step_of(model) == 3:
            layout.discard(model)

    evaluation, said = Evaluation(prune), list[str]()
    assert watch(run, tmp_path / "out", evaluation, say=said.append, sleep=no_waiting) == 0
    assert [line.step for line in read_scores(run)] == [2, 4, 6]
    assert [line for line in said if line.startswith("step 3: passed over: the save was removed")]
    assert said[-1].endswith("scored saves: 3; passed over: 1")


def test_a_save_that_cannot_be_scored_is_an_error(run: Path, tmp_path: Path) -> None:
    def fail(model: Path) -> None:
        raise OctoError("no GPU here")

    with pytest.raises(OctoError, match="no GPU here"):
        watch(run, tmp_path / "out", Evaluation(fail), say=lambda line: None)
    assert read_scores(run) == []
    with pytest.raises(OctoError, match="so it is no run"):
        watch(tmp_path, tmp_path / "out", Evaluation())


def test_a_damaged_save_is_named_once(run: Path, tmp_path: Path) -> None:
    (run / "weights/step-00000004" / layout.MANIFEST).write_text("{")
    said: list[str] = []
    evaluation = Evaluation()
    assert watch(run, tmp_path / "out", evaluation, say=said.append, sleep=no_waiting) == 0
    assert evaluation.asked == ["weights 2", "checkpoints 3", "weights 6"]
    assert len([line for line in said if line.startswith("passed over: ") and "step-00000004" in line]) == 1


def test_a_step_that_a_later_attempt_saved_again_is_another_save(run: Path, tmp_path: Path) -> None:
    assert watch(run, tmp_path / "out", Evaluation(), say=lambda line: None) == 0
    save = run / "weights/step-00000006"
    manifest = layout.read_manifest(save)
    provenance = {**manifest.provenance, "attempt": 2}
    layout.write_manifest(save, dataclasses.replace(manifest, provenance=provenance))
    shutil.rmtree(run / "checkpoints/step-00000006")
    assert [(save.step, save.attempt) for save in find_saves(run)][-1] == (6, 2)
    evaluation = Evaluation()
    assert watch(run, tmp_path / "out", evaluation, say=lambda line: None) == 0
    assert evaluation.asked == ["weights 6"]


def test_one_process_scores_a_run(run: Path, tmp_path: Path) -> None:
    def second(model: Path) -> None:
        words = ("watch", str(run), "--once", "--prompt", "octocoder", "--data", str(run), "--output", str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-m", "megatron_octo.evaluate", *words], text=True, capture_output=True, check=False
        )
        assert done.returncode == 2 and "another process scores the saves of this run" in done.stderr
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch(run, tmp_path / "out", Evaluation(second), say=lambda line: None)


def test_signals_interrupt_and_the_next_start_goes_on(run: Path, tmp_path: Path) -> None:
    def end(model: Path) -> None:
        if layout.step_of(model) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        watch(run, tmp_path / "out", Evaluation(end), say=lambda line: None)
    assert signal.getsignal(signal.SIGTERM) is before
    evaluation = Evaluation()
    assert watch(run, tmp_path / "out", evaluation, say=lambda line: None) == 0
    assert evaluation.asked == ["weights 4", "weights 6"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_waits_and_ends_with_75(run: Path, tmp_path: Path, number: signal.Signals) -> None:
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**state, "status": "running", "step": 4}))
    for folder in ("weights", "checkpoints"):
        shutil.rmtree(run / folder)
    words = ("watch", str(run), "--prompt", "octocoder", "--data", str(run), "--output", str(tmp_path / "out"))
    command = [sys.executable, "-u", "-m", "megatron_octo.evaluate", *words]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{run}: waiting for the next save\n"
        process.send_signal(number)
        said = process.communicate()[1]
    assert process.returncode == 75 and "the same command goes on" in said and "Traceback" not in said
