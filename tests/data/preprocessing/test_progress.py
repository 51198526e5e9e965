"""Progress lines in a log: only where there is something to say."""

import pytest

from megatron_octo.data.preprocessing import progress
from megatron_octo.data.preprocessing.progress import Meter


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_no_line_for_an_empty_input_however_long_the_start_took(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with Meter(0) as meter:
        meter.update(0, 0, 0, 0)
    assert lines_of(capsys) == []


def test_a_line_in_the_middle_and_none_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_INTERVAL", 0.0)
    with Meter(200) as meter:
        meter.skip(50)
        meter.update(50, 1_000_000, 3, 9)
        meter.update(100, 1_000_000, 3, 9)
    (line,) = lines_of(capsys)
    assert line.startswith("preprocess: 50 %  ") and "ETA" in line
    assert meter.summary.startswith("2.0 MB in ")
