"""Which records count after restarts, whatever an attempt still writes that has lost the run."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from megatron_octo.data.row_stream import Position
from megatron_octo.runfiles.samples import SampleLog, find_gaps, last_attempt, read_samples
from megatron_octo.runfiles.steps import end_last_line, last_recorded_step, read_metrics, that_count


@pytest.mark.parametrize(
    ("steps", "attempts", "kept"),
    [
        # An attempt that goes back voids all later steps of those before it, also if it ends before them.
        ([1, 2, 3, 4, 3, 4, 5, 2, 3], [1, 1, 1, 1, 2, 2, 2, 3, 3], [0, 7, 8]),
        ([1, 2, 3, 4], [1, 1, 1, 1], [0, 1, 2, 3]),
        ([1, 2, 3, 4, 3], [1, 1, 2, 2, 1], [0, 1, 2, 3]),  # one that slept wakes up, and voids nothing
        ([1, 2, 5, 3, 4, 3, 4], [1, 1, 1, 2, 2, 1, 3], [0, 1, 3, 6]),
        ([3, 3, 3], [0, 0, 0], [2]),  # of a version that did not name attempts
        ([], [], []),
    ],
)
def test_records_that_count(steps: list[int], attempts: list[int], kept: list[int]) -> None:
    assert np.flatnonzero(that_count(steps, attempts)).tolist() == kept


def write(run: Path, attempt: int, steps: list[int]) -> None:
    log = SampleLog(run, attempt)
    with open(run / "metrics.jsonl", "a") as metrics:
        for step in steps:
            log.write(step, Position(0, 4 * step - 4), Position(0, 4 * step), 4, False)
            metrics.write(json.dumps({"step": step, "attempt": attempt}) + "\n")
    log.close()


def test_a_late_writer_voids_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, [1, 2, 3, 4])
    write(tmp_path, 2, [3, 4, 5, 6])
    write(tmp_path, 1, [5])
    samples = read_samples(tmp_path)
    assert samples["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert samples["attempt"].tolist() == [1, 1, 2, 2, 2, 2]
    assert [(record["step"], record["attempt"]) for record in read_metrics(tmp_path)][2:] == [
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
    assert find_gaps(samples) == find_gaps(samples, 6) == []
    assert last_attempt(tmp_path) == 1 and last_recorded_step(tmp_path) == 5


def test_damaged_records_void_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1, [1, 2, 3])
    with open(tmp_path / "samples.bin", "ab") as file:
        file.write(b"\xff" * 80)
    (tmp_path / "metrics.jsonl").open("a").write("[" * 100_000 + '\n{"step": 1e400}\n')
    assert last_attempt(tmp_path) == 0 and last_recorded_step(tmp_path) == 3
    write(tmp_path, 2, [3, 4])
    assert read_samples(tmp_path)["step"].tolist() == [1, 2, 3, 4]


def test_gaps_have_names(tmp_path: Path) -> None:
    write(tmp_path, 1, [3, 4, 8, 9])
    samples = read_samples(tmp_path)
    assert find_gaps(samples) == ["steps 5 to 7 have no record"]
    assert find_gaps(samples, 11) == [
        "steps 1 to 2 have no record",
        "steps 5 to 7 have no record",
        "steps 10 to 11 have no record",
    ]
    assert find_gaps(samples[:0], 2) == ["steps 1 to 2 have no record"]
    log = SampleLog(tmp_path, 1)
    log.write(10, Position(1, 0), Position(1, 4), 4, False)
    log.close()
    assert find_gaps(read_samples(tmp_path))[-1] == "step 10 begins at epoch 1, row 0, not at 0, 36"


@pytest.mark.parametrize(
    ("before", "after"),
    [("a\nb\n", "a\nb\n"), ("a\nbc", "a\n"), ("abc", ""), ("", ""), ("a\n" + "x" * (3 << 20), "a\n")],
)
def test_a_line_cut_short_is_dropped(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "lines"
    path.write_text(before)
    end_last_line(path)
    assert path.read_text() == after
    end_last_line(tmp_path / "none")


def test_a_pipe_in_place_of_metrics_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(OSError, match="not a regular file"):
        end_last_line(tmp_path / "metrics.jsonl")
