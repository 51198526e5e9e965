"""Bad steps: what is skipped leaves no trace, what stops keeps its batch, and all of it survives a restart."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_octo import inspect
from megatron_octo.common.errors import OctoError
from megatron_octo.config.sections import GuardConfig
from megatron_octo.runfiles.attempts import read_attempts, read_errors
from megatron_octo.runfiles.samples import find_gaps, read_samples, samples_of_step
from megatron_octo.training.engine.loss_guard import Guard
from tests.training.runs import TestRun, exit_codes, small_corpus

SPIKE = {"spike": "skip", "window": 4, "sigmas": 20.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


def optimizer_steps(run: TestRun, step: int) -> int:
    return int(run.content(step)["state"]["optimizer_steps"])


def shown(run: TestRun, *arguments: str) -> str:
    """What inspect prints about a run."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert inspect.main([str(run.path), *arguments]) == 0
    return text.getvalue()


def lines(run: TestRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_a_skipped_step_leaves_no_trace(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On two ranks, one of which has the bad numbers; and the same in two pieces, bit for bit."""
    guard = {"nonfinite": "skip"} if kind == "nan" else SPIKE
    sections = {"guard": guard, "checkpoint": {"interval": 1, "keep": 9}}
    monkeypatch.setenv("OCTO_FAULT", f"rank=1,step=4,kind={kind},attempt=*")
    one = TestRun(tmp_path, corpus, "one", **sections)
    text = one.train(2)
    assert "step 4/6 | skipped, weights stay as they are: " in text
    assert ("loss nan, gradient norm nan" if kind == "nan" else "standard deviations") in text
    tensors = [one.content(step)["files"] for step in (3, 4, 5)]
    assert tensors[0] == tensors[1] != tensors[2]
    assert [optimizer_steps(one, step) for step in (3, 4, 5)] == [3, 3, 4]
    line = lines(one)[3]
    assert line["skipped"]
    assert (line["loss"] is None) == (kind == "nan")
    assert "skipped" not in lines(one)[4]
    assert one.content(4)["state"]["position"] != one.content(3)["state"]["position"]
    # Stopped before and after the bad step: what the guard remembers comes back.
    pieces = TestRun(tmp_path, corpus, "pieces", **sections)
    for steps in (3, 4, 6):
        pieces.train(2, f"train.steps={steps}")
    assert pieces.curve() == one.curve()
    for step in range(1, 7):
        assert pieces.content(step) == one.content(step)
    samples = read_samples(pieces.path)
    assert samples["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert samples["attempt"].tolist() == [1, 1, 1, 2, 3, 3]
    assert samples["skipped"].tolist() == [0, 0, 0, 1, 0, 0]
    assert find_gaps(samples) == []


@pytest.mark.slow
def test_a_bad_step_stops_the_run_and_keeps_its_batch(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"parallel": {"tensor": 2}, "checkpoint": {"interval": 2, "keep": 9, "asynchronous": False}}
    whole = TestRun(tmp_path, corpus, "whole", **sections)
    whole.train(2)
    run = TestRun(tmp_path, corpus, **sections)
    monkeypatch.setenv("OCTO_FAULT", "rank=0,step=4,kind=nan")
    text = run.fails(2)
    monkeypatch.delenv("OCTO_FAULT")
    assert text.count("error: step 4: loss nan, gradient norm nan") == 1
    assert "guard.nonfinite=skip" in text
    assert run.names() == ["latest", "step-00000002"]
    attempt = read_attempts(run.path)[0]
    assert (attempt.reason, attempt.exit_code, attempt.last_step) == ("guard", 2, 3)
    assert {record.kind for record in read_errors(run.path)} == {"guard"}
    # Shown without the data, from the file alone.
    before = shown(run, "--step", "4"), shown(run, "--step", "4", "--row", "7")
    assert "step 4, attempt 1: 8 rows\nstopped: loss nan, gradient norm nan\n" in before[0]
    # The batch, as the run itself makes it later.
    kept = np.load(run.path / "guard" / "step-00000004.npz")
    assert (int(kept["step"]), str(kept["why"])) == (4, "loss nan, gradient norm nan")
    run.train(2)
    assert run.content(6) == whole.content(6)
    found = samples_of_step(run.path, 4)
    assert found.rows == [tuple(row) for row in kept["rows"].tolist()]
    assert kept["tokens"].shape == (8, 64) == kept["labels"].shape == kept["weights"].shape
    place = 0
    for row, documents in enumerate(found.documents):
        tokens = np.concatenate([segment.tokens[:-1] for segment in documents])
        assert np.array_equal(kept["tokens"][row, : len(tokens)], tokens)
        for segment in documents:
            length = len(segment.weights)
            assert kept["documents"][place].tolist() == [row, 0, segment.document, length, segment.context]
            place += 1
    assert place == len(kept["documents"])
    after = shown(run, "--step", "4"), shown(run, "--step", "4", "--row", "7")
    assert "stopped" not in after[0]
    assert after[0].partition("data set 0")[2] == before[0].partition("data set 0")[2]
    assert after[1].partition("row 7")[2] == before[1].partition("row 7")[2]
    last = found.documents[7][-1]
    assert f"document {last.document:,}, " in after[1]
    assert " ".join(map(str, last.tokens[-3:].tolist())) in after[1].replace("\n", "")
    with pytest.raises(OctoError, match="no record of step 9; there are 1 to 6"):
        shown(run, "--step", "9")
    with pytest.raises(OctoError, match="no row 8: the step has 8"):
        shown(run, "--step", "4", "--row", "8")


@pytest.mark.slow
def test_too_many_skips_stop_the_run(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = TestRun(tmp_path, corpus, guard={"nonfinite": "skip", "max_skips": 2})
    monkeypatch.setenv("OCTO_FAULT", ";".join(f"rank=0,step={step},kind=nan" for step in range(2, 7)))
    assert exit_codes(run.start(1)) == [2]
    assert "step 4: loss nan, gradient norm nan; 2 steps in a row were skipped already" in run.log.read_text()


def test_what_a_spike_is() -> None:
    guard = Guard(GuardConfig(spike="skip", window=8, sigmas=3.0))
    losses = [5.0, 5.1, 4.9, 5.0, 5.05, 4.95, 5.0, 5.1]
    assert [guard.judge(loss, 1.0 + loss / 100) for loss in losses] == [None] * 8
    mean, spread = np.mean(losses), np.std(losses)
    assert guard.judge(mean + 2.99 * spread, 1.05) is None
    restored = Guard(GuardConfig(spike="skip", window=8, sigmas=3.0), json.loads(json.dumps(guard.state())))
    for one in (guard, restored):
        assert one.judge(9.0, 1.05) is not None  # a loss
        action, why = one.judge(5.0, 1.2) or ("", "")  # a gradient norm
        assert action == "skip"
        assert why.startswith("gradient norm 1.2 is above 1.0")
        assert one.judge(float("inf"), 1.0) == ("stop", "loss inf, gradient norm 1.0")
        assert one.skipped == 2
        assert one.judge(1.0, 0.1) is None  # below the mean is good news
        assert one.skipped == 0
    assert guard.state() == restored.state()
    # Too little is known in the first steps; and without a wish for it nothing is kept.
    young = Guard(GuardConfig(spike="stop", window=8))
    assert [young.judge(loss, 1.0) for loss in (1.0, 1.0, 1.0, 99.0)] == [None] * 4
    assert Guard(GuardConfig()).state() == {}
