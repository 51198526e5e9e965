"""``commits xp3x``: the table, the draw, and files that are missing."""

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.sources.xp3x import counts
from megatron_octo.commits.tables.languages import languages
from megatron_octo.common.errors import OctoError
from tests.commits.sources.made import read_lines, write_lines

SMALL = {"xp3_mbpp_a.jsonl": 5, "xp3_xlcost_text_to_code_C++_train.jsonl": 3, "xp3_other.jsonl": 2}
OLD = "Here is a solution in Python:"


def made(folder: Path, wanted: dict[str, int], *, shuffled: bool = False) -> Path:
    for place, (name, count) in enumerate(wanted.items()):
        rows = [{"inputs": f"{name} {i} {OLD}", "targets": f"t{i}"} for i in range(3 * count)]
        if shuffled:
            random.Random(0).shuffle(rows)
        write_lines(folder / ("python", "java")[place % 2] / name, rows)
    return folder


def table(path: Path, wanted: dict[str, int]) -> Path:
    path.write_text("".join(f"{name}: {count}\n" for name, count in wanted.items()))
    return path


def run(folder: Path, target: Path, *more: str) -> list[dict[str, str]]:
    assert main(["xp3x", str(folder), "--output", str(target), "--jobs", "1", *more]) == 0
    return read_lines(target)


def test_the_table_is_that_of_the_original() -> None:
    assert len(counts()) == 95 and sum(counts().values()) == 5000


@pytest.mark.slow
def test_the_whole_table(tmp_path: Path) -> None:
    found = run(made(tmp_path / "in", counts()), tmp_path / "out.jsonl")
    assert Counter(each["file"] for each in found) == counts()
    assert len({each["inputs"] for each in found}) == 5000
    assert [OLD in each["inputs"] for each in found] == ["mbpp" not in each["file"] for each in found]
    assert {each["lang"] for each in found if "lang" in each} <= set(languages())
    assert [each["file"] for each in found] != sorted(each["file"] for each in found)
    assert json.loads((tmp_path / "out.jsonl.stage.json").read_text())["rows_in"] == 15000


def test_order_and_packing_of_files_do_not_matter_and_the_seed_does(tmp_path: Path) -> None:
    choice = ["--counts", str(table(tmp_path / "counts.yaml", SMALL))]
    found = run(made(tmp_path / "a", SMALL), tmp_path / "a.jsonl", *choice)
    other = made(tmp_path / "b", SMALL, shuffled=True)
    plain = other / "java" / "xp3_xlcost_text_to_code_C++_train.jsonl"
    plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert run(other, tmp_path / "b.jsonl", *choice) == found
    assert run(other, tmp_path / "c.jsonl", *choice, "--seed", "1") != found
    assert {each["file"]: each.get("lang") for each in found} == dict(zip(SMALL, ("Python", "C++", None)))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"nosuch.jsonl": 1}, "1 of 4 files are missing: nosuch.jsonl"),
        ({"xp3_other.jsonl": 7}, "6 rows, of which 7 are to be drawn"),
        ({"xp3_other.jsonl": -1}, "not a table of files and counts"),
    ],
)
def test_what_is_missing(tmp_path: Path, change: dict[str, int], what: str) -> None:
    folder = made(tmp_path / "in", SMALL)
    with pytest.raises(OctoError, match=what):
        run(folder, tmp_path / "out", "--counts", str(table(tmp_path / "counts.yaml", SMALL | change)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.yaml", "in"]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", SMALL)
    write_lines(folder / "xp3_other.jsonl", [{"inputs": "q", "targets": "a"}] * 9)
    with pytest.raises(OctoError, match="two files of one name"):
        run(folder, tmp_path / "out", "--counts", str(table(tmp_path / "counts.yaml", SMALL)))
