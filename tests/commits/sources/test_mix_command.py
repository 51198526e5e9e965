"""``commits mix`` on files: contents, order, kills, and straight into preprocess."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.sources import mix_command
from megatron_octo.common.errors import OctoError
from tests.commits.sources.made import commit, pair, read_lines, write_lines
from tests.places import SHARED


def sources(folder: Path, *, shuffled: bool = False) -> list[str]:
    """Write three sources of 100, 60 and 40 rows; returns their flags."""
    r = random.Random(1)
    rows: dict[str, list[Any]] = {
        "commits": [commit(n, new_file=f"a.{'py' if n % 2 else 'go'}") for n in range(100)],
        "oasst": [pair(n, "o") for n in range(60)],
        "self": [{"instruction": f"s {n}", "output": "x", "lang": "rust"} for n in range(40)],
    }
    found = []
    for name, values in rows.items():
        if shuffled:
            r.shuffle(values)
        write_lines(folder / f"{name}.jsonl", values)
        found += ["--source", f"{name}={folder}/{name}.jsonl"]
    return found


def mix(target: Path, *words: str, jobs: int = 1) -> list[dict[str, Any]]:
    assert main(["mix", *words, "--output", str(target), "--jobs", str(jobs)]) == 0
    return read_lines(target) if target.suffix == ".jsonl" else []


def test_all_rows_appear_once_shuffled(tmp_path: Path) -> None:
    found = mix(tmp_path / "out.jsonl", *sources(tmp_path))
    assert Counter(each["source"] for each in found) == {"commits": 100, "oasst": 60, "self": 40}
    assert len({each["inputs"] for each in found}) == 200
    assert Counter(each.get("lang") for each in found) == {"Python": 50, "Go": 50, "Rust": 40, None: 60}
    halves = [sum(each["source"] == "commits" for each in half) for half in (found[:100], found[100:])]
    assert min(halves) > 30
    first = next(each for each in found if each["source"] == "commits")
    assert first["license"] == "mit" and len(first["id"]) == 40
    notes = json.loads((tmp_path / "out.jsonl.stage.json").read_text())["notes"][0]
    assert notes["self"] == {"read": 40, "distinct": 40, "written": 40}


@pytest.mark.slow
def test_order_of_rows_jobs_and_parts_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["--total", "150", "--dedup", "inputs", "--language-cap", "30"]
    one = mix(tmp_path / "one.jsonl", *sources(tmp_path), *more)
    other = mix(tmp_path / "two.jsonl", *sources(tmp_path / "more", shuffled=True), *more, jobs=2)
    assert one == other and len(one) == 150
    monkeypatch.setattr(mix_command, "PART", 500)
    assert mix(tmp_path / "three.jsonl", *sources(tmp_path), *more) == one
    assert mix(tmp_path / "four.jsonl", *sources(tmp_path), *more, "--seed", "1") != one
    assert not list(tmp_path.glob("*.mix")) and not list(tmp_path.glob("*.work"))


def test_languages_and_dropped_rows(tmp_path: Path) -> None:
    flags = sources(tmp_path)
    found = mix(tmp_path / "a.jsonl", *flags, "--languages", "python,RUST")
    assert Counter(each.get("lang") for each in found) == {"Python": 50, "Rust": 40, None: 60}
    found = mix(tmp_path / "b.jsonl", *flags, "--languages", "python", "--need-language")
    assert Counter(each.get("lang") for each in found) == {"Python": 50}
    dropped = write_lines(
        tmp_path / "d.jsonl", [pair(1), {**pair(2), "drop": "phrase"}, {"prompt": "q", "completion": ""}]
    )
    assert [each["inputs"] for each in mix(tmp_path / "c.jsonl", "--source", f"d={dropped}")] == [" question 1"]


def test_repeats(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [pair(n) for n in range(10)])
    found = mix(tmp_path / "a.jsonl", "--source", f"a={source}:2.5:4")
    assert sorted(Counter(each["inputs"] for each in found).values()) == [2, 2, 3, 3]
    found = mix(tmp_path / "b.jsonl", "--source", f"a={source}", "--total", "25", "--repeat")
    assert len(found) == 25 and set(Counter(each["inputs"] for each in found).values()) == {2, 3}


def test_a_folder_of_parquet_and_a_recipe(tmp_path: Path) -> None:
    sources(tmp_path)
    recipe = tmp_path / "mix.yaml"
    recipe.write_text("sources:\n  c: {path: commits.jsonl, format: commits}\n  o: {path: [oasst.jsonl, self.jsonl]}\n")
    mix(tmp_path / "out", str(recipe))
    mix(tmp_path / "again.jsonl", "--source", f"all={tmp_path / 'out'}")
    assert len(read_lines(tmp_path / "again.jsonl")) == 200
    assert sum("<commit_msg>" in each["inputs"] for each in read_lines(tmp_path / "again.jsonl")) == 100
    mix(tmp_path / "out", str(recipe))  # complete already
    with pytest.raises(OctoError, match="exists already"):
        mix(tmp_path / "out", str(recipe), "--seed", "1")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "either a recipe or --source"),
        (["--source", "a=nosuch.jsonl"], "no such file"),
        (["--source", "a={}", "--total", "99"], "2 rows that may appear, of which 99"),
        (["--source", "a={}", "--preprocess", "p"], "go together"),
        (["--source", "a={}", "--source", "b={}.bad"], "no pair of columns"),
    ],
)
def test_mistakes_leave_nothing(tmp_path: Path, words: list[str], what: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [pair(1), pair(2)])
    bad = write_lines(tmp_path / "in.jsonl.bad", [pair(1), {"a": 1}])
    with pytest.raises(OctoError, match=what) as error:
        mix(tmp_path / "out.jsonl", *(each.replace("{}", str(source)) for each in words))
    if "columns" in what:
        assert str(error.value.where) == f"{bad}:2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "in.jsonl.bad"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs a tokenizer")
def test_straight_into_preprocess(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = str(SHARED / "starcoder_tokenizer.json")
    words = ["--preprocess", str(tmp_path / "data"), "--tokenizer", tokenizer, "--format", "octocoder"]
    mix(tmp_path / "out.jsonl", *sources(tmp_path), *words)
    assert "200 documents" in capsys.readouterr().out and (tmp_path / "data.bin").is_file()


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("part*")}


@pytest.mark.slow
def test_kills_at_random_moments_give_the_same_bytes(tmp_path: Path) -> None:
    """Kill the command twelve times, and let it finish; files and bytes are those of an undisturbed one."""
    source = write_lines(tmp_path / "in.jsonl", [{**pair(n), "outputs": "x" * 3000} for n in range(4000)])
    program = "from megatron_octo.commits.sources import mix_command as m; m.PART = 500_000; "
    program += "from megatron_octo.commits.__main__ import main; import sys; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "mix", "--source", f"a={source}:1.5", "--jobs", "1", "--output"]
    started = time.monotonic()
    subprocess.run([*words, str(tmp_path / "wanted")], check=True, capture_output=True)
    whole, r = time.monotonic() - started, random.Random(5)
    kills = 0
    for _ in range(12):
        command, quiet = [*words, str(tmp_path / "found")], subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
            time.sleep(r.uniform(0.3, 1) * whole)
            os.kill(process.pid, signal.SIGKILL)
        kills += process.returncode == -signal.SIGKILL
        if (tmp_path / "found").is_dir():
            assert parts(tmp_path / "found") == parts(tmp_path / "wanted")
            shutil.rmtree(tmp_path / "found")
    subprocess.run([*words, str(tmp_path / "found")], check=True, capture_output=True)
    assert parts(tmp_path / "found") == parts(tmp_path / "wanted") and len(parts(tmp_path / "found")) > 20
    assert kills >= 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found", "in.jsonl", "wanted"]


DYING = """
import os, signal, sys
from megatron_octo.commits.__main__ import main
left = int(sys.argv[1])
def dying(real):
    def call(*words, **names):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*words, **names)
    return call
for name in ("unlink", "rmdir", "replace"):
    setattr(os, name, dying(getattr(os, name)))
code = main(sys.argv[2:])
print("calls", int(sys.argv[1]) - left)
sys.exit(code)
"""


@pytest.mark.slow
def test_a_kill_while_the_chosen_rows_are_removed(tmp_path: Path) -> None:
    """Also where the output is removed by hand before the next start, which must not trust what is left."""
    source = write_lines(tmp_path / "in.jsonl", [pair(n) for n in range(50)])
    target = tmp_path / "out"

    def start(calls: int) -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, "-c", DYING, str(calls), "mix", "--source", f"a={source}", "--jobs", "1"]
        return subprocess.run([*words, "--output", str(target)], capture_output=True, text=True, check=False)

    total = int(start(1 << 30).stdout.rpartition("calls ")[2])
    wanted = parts(target)
    for calls in range(total - 5, total + 1):
        shutil.rmtree(target)
        assert start(calls).returncode == -signal.SIGKILL
        shutil.rmtree(target, ignore_errors=True)
        assert start(1 << 30).returncode == 0
        assert parts(target) == wanted and not list(tmp_path.glob("*.mix"))
