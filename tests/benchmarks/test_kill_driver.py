"""The driver of kills finds what an interrupted command leaves wrong."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.support import kill_driver

# Writes its file in two parts; the second start writes the rest, or begins again.
APPENDS = "import sys, time; f = open(sys.argv[1], 'ab', buffering=0); f.write(b'1'); time.sleep(0.6); f.write(b'2')"
REPLACES = APPENDS.replace("'ab'", "'wb'")


def make_task(folder: Path, program: str, leftovers: Callable[[], list[Path]] = list) -> kill_driver.Task:
    output = folder / "out"
    command = [sys.executable, "-c", program, str(output)]
    return kill_driver.Task(command, folder, lambda: [output], leftovers, lambda errors: 0)


@pytest.mark.slow
def test_a_command_that_begins_again_passes(tmp_path: Path) -> None:
    hits = kill_driver.campaign({"replaces": make_task(tmp_path, REPLACES)}, kills=3, seed=1)
    assert hits["replaces"] >= 3


@pytest.mark.slow
def test_other_bytes_are_found(tmp_path: Path) -> None:
    task = make_task(tmp_path, APPENDS)
    _, wanted = task.undisturbed()
    with pytest.raises(AssertionError, match=r"other bytes after \['SIGKILL at 0.40 s'\]: \['out'\]"):
        task.trial([0.4], [kill_driver.SIGNALS[0]], wanted)


@pytest.mark.slow
def test_leftovers_are_found(tmp_path: Path) -> None:
    left = REPLACES.replace("f.write(b'2')", "f.write(b'2'); open(sys.argv[1] + '.tmp', 'w')")
    task = make_task(tmp_path, left, lambda: [*tmp_path.glob("out.*")])
    _, wanted = task.undisturbed()
    with pytest.raises(AssertionError, match="left behind"):
        task.trial([0.4], [kill_driver.SIGNALS[0]], wanted)


def test_moments_are_within_the_duration() -> None:
    moments = kill_driver.moments_of(random.Random(0), 3.0, 1000, peak=0.9)
    assert 0 <= min(moments) < max(moments) <= 3.0
    assert sum(moment > 1.5 for moment in moments) > 600
