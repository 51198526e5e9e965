"""Tests of writing all reports of an evaluation."""

from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.results.report import write_reports
from tests.evaluation.small import scored, write_verdicts

_TASK = "humanevalsynthesize-python"


def test_three_files_are_written_and_lines_returned(tmp_path: Path) -> None:
    write_verdicts(tmp_path / "a", _TASK, [scored(0, 0), scored(1, 0, Kind.WRONG)])
    write_verdicts(tmp_path / "b", _TASK, [scored(0, 0), scored(1, 0)])
    lines = write_reports(tmp_path / "a", tmp_path / "b")
    assert lines[0].startswith(f"{_TASK}: pass@1 50.0 % (")
    assert lines[1].startswith(f"{_TASK}: +50.0 (")
    written = sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_file())
    assert {records.SCORES, records.REPORT, records.PAGE} <= set(written)


def test_half_a_pair_of_surrogates_does_not_stop_a_report(tmp_path: Path) -> None:
    write_verdicts(tmp_path, _TASK, [scored(0, 0, Kind.WRONG, solution="x = '\ud83d'")])
    write_reports(tmp_path)
    assert "x = " in (tmp_path / records.PAGE).read_text()


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    write_verdicts(tmp_path, _TASK, [scored(0, 0)])
    write_reports(tmp_path)
    before = (tmp_path / records.PAGE).read_bytes()
    with pytest.raises(OctoError, match="no verdicts"):
        write_reports(tmp_path, tmp_path / "other")
    assert (tmp_path / records.PAGE).read_bytes() == before
