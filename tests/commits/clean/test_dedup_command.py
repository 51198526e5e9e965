"""``commits dedup``: what is dropped and what stays, whatever the shards, the order, the processes and kills."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.commits_dedup import dropped, made_edits, write_shards
from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import Row, Writer, read_rows
from megatron_octo.common.errors import OctoError
from tests.places import PROJECT


def write(path: Path, rows: list[Row]) -> str:
    with Writer(path) as writer:
        for each in rows:
            writer.write(each)
    return str(path)


def row(commit: str, old: str | None, new: str | None, subject: str = "Change it", **more: str) -> Row:
    return Row(commit * 40, "a.py", "a.py", old, new, subject, **more)  # type: ignore[arg-type]


LONG = "\n".join(f"line {number} of a text that is long enough" for number in range(40))
ROWS = [
    row("c", "a\n", "b\n"),
    row("b", "a\n", "b\n", "Another subject"),  # the same blobs, and the smaller id
    row("e", "a  \n", "b\n", "CHANGE it"),  # the same text
    row("f", "", LONG),
    row("d", "", LONG.replace("line 7 ", "row 7 ")),  # near
    row("9", LONG, ""),  # the revert
    row("a", "a\n", "b\n", drop="before"),  # dropped before: it neither stays for others nor is judged
    Row("8" * 40, "x", "x", old_blob="1" * 40, new_blob="2" * 40),
    Row("7" * 40, "x", "x", old_blob="1" * 40, new_blob="2" * 40),
    row("6", None, None),
    row("5", None, None),
]


@pytest.mark.slow
def test_what_is_dropped(tmp_path: Path) -> None:
    for name, rows in (("one", ROWS), ("two", ROWS[::-1])):
        output = tmp_path / f"{name}.jsonl"
        assert main(["dedup", write(tmp_path / f"{name}-in.jsonl", rows), "--output", str(output)]) == 0
        found = {each.commit[0]: (each.drop, each.signals.get("dedup_cluster", "")[:1]) for each in read_rows(output)}
        assert found == {
            "b": (None, ""), "c": ("duplicate", "b"), "e": (None, ""), "d": (None, ""), "f": ("near_duplicate", "d"),
            "9": (None, ""), "a": ("before", ""), "7": (None, ""), "8": ("duplicate", "7"), "5": (None, ""),
            "6": (None, ""),
        }  # fmt: skip
    assert not list(tmp_path.glob("*.keys"))


def test_texts_that_differ_in_white_space_and_case(tmp_path: Path) -> None:
    rows = [row("b", "a\n", "b\n"), row("c", "a  \n", "B\n", "CHANGE it")]
    main(["dedup", write(tmp_path / "in.jsonl", rows), "--output", str(tmp_path / "out.jsonl"), "--exact-only"])
    assert [each.drop for each in read_rows(tmp_path / "out.jsonl")] == [None, "duplicate_text"]


@pytest.mark.slow
def test_shards_order_and_jobs_change_nothing(tmp_path: Path) -> None:
    rows, _ = made_edits(400, 300, 1)
    wanted = None
    for shards, jobs in ((1, "1"), (8, "2")):
        output = tmp_path / f"out-{shards}"
        main(["dedup", *write_shards(rows, tmp_path, shards), "--output", str(output), "--jobs", jobs])
        found = sorted(dropped(output))
        assert found and wanted in (None, found)
        wanted = found
        random.Random(0).shuffle(rows)


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path) -> None:
    rows, _ = made_edits(1500, 500, 2)
    paths = write_shards(rows, tmp_path, 3)
    main(["dedup", *paths, "--output", str(tmp_path / "wanted")])
    command = [sys.executable, "-m", "megatron_octo.commits", "dedup", *paths, "--output", str(tmp_path / "out")]
    random_wait, kills = random.Random(3), 0
    for _ in range(4):
        process = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(random_wait.uniform(0.3, 2.0))
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    names = sorted(path.name for path in (tmp_path / "wanted").glob("*.parquet"))
    assert names == sorted(path.name for path in (tmp_path / "out").glob("*.parquet"))
    for name in names:
        assert (tmp_path / "wanted" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert kills


@pytest.mark.parametrize("words", [["--threshold", "0"], ["--threshold", "1.5"], ["--bands", "500"]])
def test_wrong_options_write_nothing(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(OctoError):
        main(["dedup", write(tmp_path / "in.jsonl", ROWS[:2]), "--output", str(tmp_path / "out"), *words])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_bad_row_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"commit": "a"}\n{"commit": 5}\n')
    with pytest.raises(OctoError, match="column 'commit' holds int"):
        main(["dedup", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
