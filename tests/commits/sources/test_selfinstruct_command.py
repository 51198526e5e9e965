"""``commits selfinstruct`` on files."""

from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.common.errors import OctoError
from tests.commits.sources.made import read_lines, write_lines


def test_rows_of_several_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"instruction": "Sort", "input": "3 1", "output": "```rust\nx\n```", "n": 1},
        {"prompt": "q", "completion": "a", "lang": "Go"},
        {"instruction": "q", "output": " "},
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    found = []
    for jobs in ("1", "2"):
        target = tmp_path / f"{jobs}.jsonl"
        assert main(["selfinstruct", str(source), "--output", str(target), "--jobs", jobs, "--source", "s"]) == 0
        found.append(target.read_bytes())
    assert "3 rows in, 2 kept; dropped here: 1 empty_output" in capsys.readouterr().out and found[0] == found[1]
    first, second, third = read_lines(target)
    assert (first["inputs"], first["lang"], first["n"], first["source"]) == ("Sort\n3 1", "Rust", 1, "s")
    assert second["lang"] == "Go" and third["drop"] == "empty_output"


def test_a_row_without_an_answer_names_its_line(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "q", "completion": "a"}, {"instruction": "q"}])
    with pytest.raises(OctoError, match="the row has 'instruction'") as error:
        main(["selfinstruct", str(source), "--output", str(tmp_path / "out.jsonl"), "--jobs", "1"])
    assert str(error.value.where) == f"{source}:2" and not (tmp_path / "out.jsonl").exists()
