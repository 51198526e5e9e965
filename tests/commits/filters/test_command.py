"""``commits filter`` on files, with the counts of real rows."""

import json
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.filters.command import changed_lines
from megatron_octo.commits.rows import Writer, read_rows
from tests.commits.filters.made import ALONE, GOOD, row
from tests.places import SHARED


def write(path: Path) -> Path:
    with Writer(path) as writer:
        writer.write(row({}))
        for columns in ALONE.values():
            writer.write(row(columns))
    return path


def test_reasons_and_signals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl"
    assert main(["filter", str(source), "--output", str(target), "--no-tokens"]) == 0
    found = [json.loads(line) for line in target.read_text().splitlines()]
    wanted = [None, *(None if name == "tokens" else name for name in ALONE)]
    assert [each.get("drop") for each in found] == wanted
    assert f"{len(wanted)} rows in, 2 kept" in capsys.readouterr().out
    assert (found[0]["verb"], found[0]["changed_lines"], found[0]["subject_words"]) == ("add", 2, 5)
    assert found[1]["old_characters"] == 50_000 and found[1]["drop_why"] == "50000 characters"


@pytest.mark.slow
def test_variants_of_models(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl")
    for model in ("bloomz", "codegeex", "santacoder"):
        target = tmp_path / f"{model}.jsonl"
        assert main(["filter", str(source), "--output", str(target), "--no-tokens", "--model", model]) == 0
        first = next(read_rows(target))
        if model == "codegeex":  # CSS is one of its languages, not of the others
            assert (first.drop, first.message) == (None, "")
        else:
            assert (first.drop, first.drop_why) == ("language", "css")
    source.write_text(json.dumps({**GOOD, "lang": "Python", "new_file": "web/start.py"}) + "\n")
    target = tmp_path / "pairs.jsonl"
    assert main(["filter", str(source), "--output", str(target), "--no-tokens", "--model", "bloomz"]) == 0
    signals = next(read_rows(target)).signals
    assert signals["inputs"] == GOOD["old_contents"] + "\n\n" + GOOD["subject"]
    assert signals["targets"] == "\n" + GOOD["new_contents"]


def test_a_missing_tokenizer_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl")
    with pytest.raises(FileNotFoundError):  # run_command names the file and ends with 2
        main(["filter", str(source), "--output", str(tmp_path / "out"), "--tokenizer", str(tmp_path / "none.json")])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_changed_lines() -> None:
    assert changed_lines("a\nb\n", "a\nc\n") == 2 and changed_lines("", "") == 0


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real rows")
def test_counts_of_real_rows(tmp_path: Path) -> None:
    source, tokenizer = str(SHARED / "commits.jsonl.gz"), str(SHARED / "starcoder_tokenizer.json")
    for name, more, kept in (("a", ["--no-tokens"], 94), ("b", ["--tokenizer", tokenizer], 6)):
        target = tmp_path / f"{name}.parquet"
        assert main(["filter", source, "--output", str(target), *more]) == 0
        assert sum(each.kept for each in read_rows(target)) == kept
