"""Records of the rows of each step: gaps are found, and damaged or cut records do not count."""

import os
from pathlib import Path

import numpy as np
import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.row_stream import Position
from megatron_octo.runfiles.samples import RECORD, SAMPLES, SampleLog, find_gaps, last_attempt, read_samples


def write(run: Path, attempt: int, steps: range, rows: int = 4) -> None:
    log = SampleLog(run, attempt)
    for step in steps:
        log.write(step, Position(0, (step - 1) * rows), Position(0, step * rows), rows, False)
    log.close()


def test_records_are_read_back_without_gaps(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 6))
    samples = read_samples(tmp_path)
    assert samples["step"].tolist() == [1, 2, 3, 4, 5] and samples["next_row"].tolist() == [4, 8, 12, 16, 20]
    assert find_gaps(samples) == [] and find_gaps(samples, 5) == []
    assert last_attempt(tmp_path) == 1


def test_a_later_attempt_voids_what_it_computes_again(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 6))
    write(tmp_path, 2, range(4, 8))
    samples = read_samples(tmp_path)
    assert samples["step"].tolist() == list(range(1, 8))
    assert samples["attempt"].tolist() == [1, 1, 1, 2, 2, 2, 2]
    write(tmp_path, 1, range(5, 6))  # a process that lost the run and woke up
    assert read_samples(tmp_path).tobytes() == samples.tobytes()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 3))
    write(tmp_path, 1, range(5, 7))
    samples = read_samples(tmp_path)
    assert find_gaps(samples) == ["steps 3 to 4 have no record"]
    assert find_gaps(samples, 7) == ["steps 3 to 4 have no record", "step 7 has no record"]
    assert find_gaps(samples[:0], 2) == ["steps 1 to 2 have no record"]
    moved = samples[:2].copy()
    moved["row"][1] += 1
    assert find_gaps(moved) == ["step 2 begins at epoch 0, row 5, not at 0, 4"]


def test_a_cut_record_is_dropped_by_the_next_attempt(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 4))
    os.truncate(tmp_path / SAMPLES, 2 * RECORD.itemsize + 7)
    assert read_samples(tmp_path)["step"].tolist() == [1, 2]
    write(tmp_path, 2, range(3, 5))
    assert read_samples(tmp_path)["step"].tolist() == [1, 2, 3, 4]
    assert (tmp_path / SAMPLES).stat().st_size == 4 * RECORD.itemsize


def test_garbage_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, 1, range(1, 4))
    garbage = np.full(RECORD.itemsize, 0xFF, np.uint8)
    with open(tmp_path / SAMPLES, "ab") as file:
        file.write(garbage.tobytes())
    assert read_samples(tmp_path)["step"].tolist() == [1, 2, 3]


def test_no_record_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no record of samples here"):
        read_samples(tmp_path)
    assert last_attempt(tmp_path) == 0
