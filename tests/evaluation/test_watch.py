"""A run's saves are scored once each, as they appear; a save that goes away does no harm."""

import json
import shutil
import threading
from pathlib import Path

import pytest

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import write_json
from megatron_octo.evaluation import watch as watching
from megatron_octo.evaluation.benchmark.tasks import task_named
from megatron_octo.evaluation.records import Kind, ScoredSample, Verdict
from megatron_octo.evaluation.results.summary import TaskScore, score_task
from megatron_octo.runfiles.scores import SCORES, read_scores

TASK = "humanevalsynthesize-python"


def save(run: Path, step: int, folder: str = layout.WEIGHTS, digest: str = "a") -> Path:
    path = run / folder / layout.step_name(step)
    path.mkdir(parents=True)
    write_json(path / layout.MANIFEST, {"digest": f"xxh3-128:{digest}{step}"})
    return path


def scores(passed: int) -> dict[str, TaskScore]:
    kinds = [Kind.PASSED] * passed + [Kind.WRONG] * (10 - passed)
    verdicts = {(n, 0): ScoredSample(n, 0, "p", "t", "none", Verdict(kind, 2)) for n, kind in enumerate(kinds)}
    return {TASK: score_task(task_named(TASK), verdicts)}


def test_each_save_is_scored_once_and_new_ones_as_they_come(tmp_path: Path) -> None:
    run, said, seen = tmp_path / "run", [], []
    save(run, 10)
    save(run, 10, layout.CHECKPOINTS)
    save(run, 5)

    def evaluate(path: Path, output: Path) -> dict[str, TaskScore]:
        seen.append(path.relative_to(run).as_posix())
        assert output.parent == tmp_path / "out"
        if len(seen) == 2:  # the training goes on meanwhile, and ends
            save(run, 15)
            write_json(run / "state.json", {"status": "finished", "step": 15})
        return scores(len(seen))

    assert watching.watch(run, evaluate, tmp_path / "out", poll_s=0.01, say=said.append) == 3
    assert seen == ["weights/step-00000005", "weights/step-00000010", "weights/step-00000015"]
    assert [(line["step"], line["value"]) for line in read_scores(run)] == [(5, 10.0), (10, 20.0), (15, 30.0)]
    assert watching.watch(run, evaluate, tmp_path / "out", say=said.append) == 0
    shutil.rmtree(run / layout.WEIGHTS / layout.step_name(15))
    save(run, 15, digest="b")  # rolled back, and come to the step again with other weights
    assert watching.watch(run, evaluate, tmp_path / "out", say=said.append) == 1
    assert [line["value"] for line in read_scores(run)] == [10.0, 20.0, 40.0]


def test_a_save_that_is_removed_while_it_is_scored_is_passed_over(tmp_path: Path) -> None:
    run, said = tmp_path / "run", []
    first = save(run, 5)
    save(run, 10)
    write_json(run / "state.json", {"status": "finished", "step": 10})

    def evaluate(path: Path, output: Path) -> dict[str, TaskScore]:
        if path == first:
            shutil.rmtree(first)
            raise OctoError("a file is missing", where=path)
        return scores(3)

    assert watching.watch(run, evaluate, tmp_path / "out", say=said.append) == 1
    assert [line["step"] for line in read_scores(run)] == [10]
    assert any("step 5: the save was removed" in line for line in said)

    def broken(path: Path, output: Path) -> dict[str, TaskScore]:
        raise OctoError("no tokenizer", where=path)

    save(run, 20)
    with pytest.raises(OctoError, match="no tokenizer"):
        watching.watch(run, broken, tmp_path / "out", say=said.append)


def test_it_waits_for_a_run_that_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    thread = threading.Thread(
        target=watching.watch, args=(run, lambda *_: scores(1), tmp_path / "out"), kwargs={"poll_s": 0.01}
    )
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    write_json(run / "state.json", {"status": "finished", "step": 0})
    thread.join(10)
    assert not thread.is_alive()
    with pytest.raises(OctoError, match="no such run"):
        watching.watch(tmp_path / "none", lambda *_: scores(1), tmp_path / "out")


def test_odd_lines_are_passed_over(tmp_path: Path) -> None:
    good = {"step": 1, "save": "x", "task": TASK, "value": 1.0, "low": 0.0, "high": 2.0}
    lines = [json.dumps(good), "no json", json.dumps({**good, "value": "much"}), '{"step": 2}', json.dumps(good)[:20]]
    (tmp_path / SCORES).write_text("\n".join(lines))
    problems: list[str] = []
    assert read_scores(tmp_path, problems.append) == [good]
    assert problems
