"""``commits scrub`` on files."""

import json
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.common.errors import OctoError
from tests.commits.rows.made import write_rows


def test_rows_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    old, new = "# anna@firm.org\n", "# li@firm.org\n"
    rows = [
        {"commit": "a" * 40, "old_contents": old, "new_contents": new, "author": "A <a@b.org>"},
        {"commit": "b" * 40, "old_contents": old, "new_contents": "", "drop": "before"},
    ]
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main(["scrub", str(source), "--output", str(target)]) == 0
    assert "2 rows in, 1 kept; nothing dropped here" in capsys.readouterr().out
    first, second = map(json.loads, target.read_text().splitlines())
    assert (first["old_contents"], first["new_contents"]) == ("# <EMAIL>\n", "# <EMAIL_2>\n")
    assert "author" not in first and first["scrubbed"] == ["email"]
    assert second["old_contents"] == "# anna@firm.org\n" and "scrubbed" not in second


def test_jobs_and_the_prefilter_change_nothing(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.parquet", 50)
    found = []
    for name, more in (("one", ["--jobs", "1"]), ("two", ["--jobs", "2"]), ("three", ["--no-prefilter"])):
        assert main(["scrub", str(source), "--output", str(tmp_path / f"{name}.jsonl"), *more]) == 0
        found.append((tmp_path / f"{name}.jsonl").read_bytes())
    assert found[0] == found[1] == found[2]


def test_a_wrong_name_writes_nothing(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 3)
    with pytest.raises(OctoError, match="no pattern 'mail'"):
        main(["scrub", str(source), "--output", str(tmp_path / "out"), "--without", "mail"])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
