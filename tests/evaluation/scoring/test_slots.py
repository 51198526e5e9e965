"""Tests of the numbers of sandboxes: no two evaluations share one, and a kill frees them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.sandbox.levels import Level, Number
from megatron_octo.evaluation.scoring import slots
from megatron_octo.evaluation.scoring.judge import Judge
from megatron_octo.evaluation.scoring.slots import take_slots

_HOLDER = """
import sys
from pathlib import Path
from megatron_octo.evaluation.scoring.slots import take_slots
with take_slots(2, Path(sys.argv[1])) as taken:
    print(taken, flush=True)
    sys.stdin.read()
"""


def test_evaluations_at_the_same_time_get_different_numbers(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "[0, 1]\n"
    with take_slots(2, tmp_path) as first, take_slots(1, tmp_path) as second:
        assert (first, second) == ([2, 3], [4])
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with take_slots(3, tmp_path) as taken:
        assert taken == [0, 1, 2]


def test_judges_with_different_caches_do_not_share_a_sandbox(tmp_path: Path) -> None:
    level = Level(Number.NAMESPACES)
    with Judge(level, tmp_path / "a", jobs=2) as first, Judge(level, tmp_path / "b", jobs=2) as second:
        numbers = [box.slot for judge in (first, second) for box in judge.boxes()]
    assert len(set(numbers)) == 4


def test_too_many_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "SLOTS", 3)
    with take_slots(2, tmp_path), pytest.raises(OctoError, match="1 of 2 sandboxes are free"), take_slots(2, tmp_path):
        pass
    with take_slots(3, tmp_path) as taken:
        assert taken == [0, 1, 2]
