"""Lines of JSON: appended after a torn one, read while they grow, passed over where they are not valid."""

from pathlib import Path
from typing import TypedDict

import pytest
from pydantic import TypeAdapter

from megatron_octo.common import jsonl


class Line(TypedDict):
    step: int


LINES = TypeAdapter(Line)


def test_lines_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log.jsonl"
    for step in range(3):
        jsonl.append(path, {"step": step, "text": "é\n"})
    assert [line["step"] for line in jsonl.read(path, LINES)] == [0, 1, 2]
    assert jsonl.read(path, jsonl.ANY)[1] == {"step": 1, "text": "é\n"}


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    jsonl.append(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')
    assert jsonl.read(path, LINES) == [{"step": 1}], "it may still be growing"
    jsonl.append(path, {"step": 3})
    reported: list[str] = []
    assert [line["step"] for line in jsonl.read(path, LINES, reported.append)] == [1, 3]
    assert len(reported) == 1 and "1 line passed over" in reported[0]


@pytest.mark.parametrize("bad", [b"[1]", b"{}", b'{"step": "x"}', b"\xff\xfe", b"[" * 100_000, b'{"step": 1e400}'])
def test_lines_that_are_not_valid_are_reported(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(bad + b'\n{"step": 7}\n' + bad + b"\n")
    reported: list[str] = []
    assert jsonl.read(path, LINES, reported.append) == [{"step": 7}]
    assert len(reported) == 1 and "2 lines passed over" in reported[0]


def test_the_tail_begins_at_a_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1000)))
    found = [line["step"] for line in jsonl.read(path, LINES, tail=100)]
    assert found == list(range(found[0], 1000)) and 1 < len(found) < 10


def test_no_file_is_no_line(tmp_path: Path) -> None:
    assert jsonl.read(tmp_path / "none.jsonl", LINES) == []
