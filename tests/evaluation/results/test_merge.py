"""Tests of merging the parts of several machines."""

import dataclasses
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.records import Kind, Sample, ScoredSample
from megatron_octo.evaluation.results.merge import merge
from tests.evaluation.small import scored

_TASK = "humanevalsynthesize-python"


def _part(output: Path, problems: list[int], verdicts: dict[int, ScoredSample] | None = None, seed: int = 0) -> Path:
    records.open_header(output, "generation", {"seed": seed})
    lines = records.Lines(records.samples_path(output, _TASK))
    for problem in problems:
        lines.append(records.sample_record(Sample(_TASK, problem, 0, f"text {problem}", 3, "eos", "d")))
    lines.close()
    lines = records.Lines(records.verdicts_path(output, _TASK))
    for problem in problems:
        lines.append(records.verdict_record((verdicts or {}).get(problem, scored(problem, 0))))
    lines.close()
    return output


def test_parts_become_one_and_missing_problems_are_named(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0, 3]), _part(tmp_path / "b", [1, 3])]
    found = merge(parts, tmp_path / "all", expect=5)
    assert found.samples == found.verdicts == {_TASK: 3}
    assert found.missing == {_TASK: (2, 4)}
    assert list(records.read_samples(tmp_path / "all", _TASK)) == [(0, 0), (1, 0), (3, 0)]
    assert records.read_header(tmp_path / "all")["generation"] == {"seed": 0}


def test_merging_twice_changes_nothing(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0]), _part(tmp_path / "b", [1])]
    merge(parts, tmp_path / "all")
    before = {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()}
    merge(parts, tmp_path / "all")
    assert before == {path: path.read_bytes() for path in (tmp_path / "all").rglob("*") if path.is_file()}


def test_parts_of_two_evaluations_are_refused(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0]), _part(tmp_path / "b", [1], seed=1)]
    with pytest.raises(OctoError, match="seed: 0 there, 1 now") as caught:
        merge(parts, tmp_path / "all")
    assert caught.value.where == tmp_path / "b"


def test_a_sample_with_two_contents_is_refused(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0]), tmp_path / "b"]
    records.open_header(tmp_path / "b", "generation", {"seed": 0})
    lines = records.Lines(records.samples_path(tmp_path / "b", _TASK))
    lines.append(records.sample_record(Sample(_TASK, 0, 0, "another text", 3, "eos", "d")))
    lines.close()
    with pytest.raises(OctoError, match="two different contents"):
        merge(parts, tmp_path / "all")


def test_two_verdicts_on_one_sample_are_refused_unless_only_their_seconds_differ(tmp_path: Path) -> None:
    slow = scored(0, 0)
    slow = dataclasses.replace(slow, verdict=dataclasses.replace(slow.verdict, run_cpu_s=3.0, detail="other words"))
    assert merge([_part(tmp_path / "a", [0]), _part(tmp_path / "b", [0], {0: slow})], tmp_path / "all").verdicts
    failing = _part(tmp_path / "c", [0], {0: scored(0, 0, Kind.WRONG, solution="")})
    with pytest.raises(OctoError, match="two different verdicts: passed, wrong"):
        merge([tmp_path / "a", failing], tmp_path / "other")


def test_a_folder_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OctoError, match="not an evaluation"):
        merge([tmp_path / "a"], tmp_path / "all")


def test_nothing_is_written_if_parts_do_not_fit(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0]), _part(tmp_path / "b", [1], seed=1)]
    with pytest.raises(OctoError):
        merge(parts, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_part_of_a_line_that_a_kill_left_is_no_sample(tmp_path: Path) -> None:
    parts = [_part(tmp_path / "a", [0]), _part(tmp_path / "b", [1])]
    merge(parts[:1], tmp_path / "all")
    path = records.samples_path(tmp_path / "all", _TASK)
    path.write_bytes(path.read_bytes() + b'{"task": "huma')
    merge(parts, tmp_path / "all")
    assert list(records.read_samples(tmp_path / "all", _TASK)) == [(0, 0), (1, 0)]
    assert path.read_bytes().count(b"\n") == 2
