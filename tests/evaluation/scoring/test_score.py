"""Tests of scoring a directory: right answers score all, equal verdicts each time, kills cost nothing."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.levels import probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.judge import Judge
from megatron_octo.evaluation.scoring.score import Tally, score
from tests.evaluation.scoring.conftest import MakeJudge
from tests.evaluation.small import canonical, write_samples

_FIX = Task("fixtests", "python")
_LIMITS = Limits(cpu_s=2)


def _score(output: Path, data: Path, judge: Judge, task: Task = _FIX, limits: Limits = _LIMITS) -> Tally:
    rows = {task.language: read_rows(data, task.language)}
    return score(output, [task], rows, judge, level=probe_level(), limits=limits)


def _content(output: Path, task: str = _FIX.name) -> dict[tuple[int, int], tuple[object, ...]]:
    found = records.read_verdicts(output, task)
    return {key: (each.program, each.cut, each.solution, each.verdict.kind) for key, each in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("task", [Task("synthesize", "python"), _FIX, Task("fixdocs", "cpp")])
def test_right_answers_score_all(tmp_path: Path, benchmark: Path, make_judge: MakeJudge, task: Task) -> None:
    write_samples(tmp_path, benchmark, canonical, {task.scenario: 2}, task.language)
    tally = _score(tmp_path, benchmark, make_judge(), task)
    assert tally.kinds == {Kind.PASSED: 6}
    assert all(not each.solution for each in records.read_verdicts(tmp_path, task.name).values())


def _mixed(row: Row, number: int) -> str:
    texts = [
        canonical(row, 0),
        "\n" + row.buggy_solution,
        "",
        "\n    raise ValueError('x')\n",
        "\n    import os; os._exit(0)\n",
    ]
    return texts[number]


def test_each_end_has_its_kind_and_a_second_pass_runs_nothing(
    tmp_path: Path, benchmark: Path, make_judge: MakeJudge
) -> None:
    write_samples(tmp_path, benchmark, _mixed, {"fixtests": 5})
    judge = make_judge()
    _score(tmp_path, benchmark, judge)
    kinds = [each[3] for key, each in sorted(_content(tmp_path).items()) if key[0] == 0]
    assert kinds[:2] == [Kind.PASSED, Kind.WRONG] and Kind.PASSED not in kinds[1:]
    path = records.verdicts_path(tmp_path, _FIX.name)
    before = path.read_bytes()
    assert _score(tmp_path, benchmark, judge).kinds == {}
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_same_verdicts_each_time(tmp_path: Path, benchmark: Path, make_judge: MakeJudge) -> None:
    for name in ("a", "b"):
        write_samples(tmp_path / name, benchmark, _mixed, {"fixtests": 5})
        _score(tmp_path / name, benchmark, make_judge())
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_other_limits_are_not_mixed(tmp_path: Path, benchmark: Path, make_judge: MakeJudge) -> None:
    write_samples(tmp_path, benchmark, canonical, {"fixtests": 1})
    judge = make_judge()
    _score(tmp_path, benchmark, judge)
    with pytest.raises(OctoError, match="limits"):
        _score(tmp_path, benchmark, judge, limits=Limits(cpu_s=3))


def test_samples_of_problems_that_the_data_lack_are_refused(
    tmp_path: Path, benchmark: Path, make_judge: MakeJudge
) -> None:
    write_samples(tmp_path, benchmark, canonical, {"fixtests": 1})
    rows = {"python": read_rows(benchmark, "python")[:2]}
    with pytest.raises(OctoError, match="has no problem 2"):
        score(tmp_path, [_FIX], rows, make_judge(), level=probe_level(), limits=Limits(cpu_s=2))


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing_and_run_nothing_twice(tmp_path: Path, benchmark: Path) -> None:
    """What was judged before a kill is not judged again: the last pass runs exactly what had no line."""
    generator = random.Random(5)
    total = 3 * 20

    def answer(row: Row, number: int) -> str:
        return f"\n    # {number}{_mixed(row, number % 4)}"

    outputs = [tmp_path / "killed", tmp_path / "whole"]
    for output in outputs:
        write_samples(output, benchmark, answer, {"fixtests": 20})

    def start(output: Path) -> "subprocess.Popen[str]":
        words = ["-m", "megatron_octo.evaluate", "score", "--output", str(output), "--data", str(benchmark)]
        words += ["--tasks", _FIX.name, "--no-verdict-cache", "--jobs", "2"]
        return subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    path = records.verdicts_path(outputs[0], _FIX.name)

    def lines() -> int:
        return path.read_bytes().count(b"\n") if path.exists() else 0

    for _ in range(4):
        before, process = lines(), start(outputs[0])
        target = before + generator.randrange(1, 12)
        while process.poll() is None and lines() < target:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = lines()
    assert 0 < done < total
    last, _ = start(outputs[0]).communicate()
    whole, _ = start(outputs[1]).communicate()
    counts = [sum(int(word) for word in text.split(";")[0].split() if word.isdigit()) for text in (last, whole)]
    assert counts == [total - done, total], (last, whole)
    assert lines() == total
    assert _content(outputs[0]) == _content(outputs[1])
