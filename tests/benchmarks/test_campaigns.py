"""Campaigns find the faults that they look for, and the same attack comes of the same seed."""

import json
import random
import sys
from pathlib import Path

import pytest

from benchmarks.campaigns import attack, conversions, injections
from benchmarks.campaigns.attack import Campaign, Outcome
from benchmarks.support.forks import Done


class Half(Campaign):
    """Every second number is a fault."""

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        value = generator.random()
        return Outcome("coin", "good", f"fault {value}" if value < 0.5 else "")


def test_a_fault_is_printed_with_its_command_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = attack.run(Half(tmp_path), "half", seed=3, first=0, count=20)
    assert 3 < len(found["faults"]) < 17
    number = found["faults"][0]["number"]
    assert f"campaigns half --seed 3 --first {number} --count 1" in capsys.readouterr().out
    again = attack.run(Half(tmp_path), "half", seed=3, first=number, count=1)
    assert again["faults"] == found["faults"][:1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("done", "fault"),
    [
        (Done(0, "fine", 1.0), ""),
        (Done(2, "error: no such file", 1.0), ""),
        (Done(2, "", 1.0), "exit code 2 without a message"),
        (Done(1, "error: x", 1.0), "exit code 1: error: x"),
        (Done(None, "", 20.0), "no end after 20 s: "),
        (Done(2, "error: x\nTraceback (most recent call last):\nValueError", 1.0), "traceback: "),
    ],
)
def test_endings(done: Done, fault: str) -> None:
    assert attack.ending(done).startswith(fault)
    assert bool(attack.ending(done)) == bool(fault)


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x9b31m", "\u202ex", "\x7f"])
def test_control_characters_are_found(text: str) -> None:
    assert "control character" in attack.controls(f"good\n\t{text}")
    assert not attack.controls("good\n\tläßt 中")


@pytest.mark.parametrize(
    "page",
    ["<script>1</script>", "<p onclick=x>", "<a href='javascript:1'>", "<svg><image href='http://x'></svg>"],
)
def test_pages_that_run_code_are_found(page: str) -> None:
    assert injections.Page(f"<p>{page}</p>").found
    assert not injections.Page("<p>&lt;script&gt;</p><svg><a href='#x'></a></svg>").found


def test_damage_changes_something_nearly_always() -> None:
    record = json.dumps({"a": 1, "b": [1, {"c": "x"}]}).encode()
    for damage in (attack.damage_bytes, attack.damage_json):
        changed = [damage(record, random.Random(seed))[1] != record for seed in range(200)]
        assert sum(changed) > 180


@pytest.mark.slow
def test_the_planted_pickle_runs_where_it_is_read(tmp_path: Path) -> None:
    """The canary would be found: torch's own unrestricted reader creates it."""
    import subprocess

    import torch

    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    for seed in range(8):
        conversions.pickled(tmp_path, random.Random(seed))
        program = "import torch, sys; torch.load(sys.argv[1], weights_only=False)"
        subprocess.run([sys.executable, "-c", program, tmp_path / "x.pt"], cwd=tmp_path, capture_output=True)
        if (tmp_path / conversions.CANARY).exists():
            return
    raise AssertionError("no planted call ran")
