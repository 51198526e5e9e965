"""``commits decontaminate`` on files, with its report."""

import json
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.clean.test_contamination import PROMPT
from tests.commits.rows.made import write_rows


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "made.jsonl"
    rows = [
        {"task_id": "Made/0", "prompt": PROMPT, "test": "assert x"},
        {"task_id": "Made/1", "test_list": ["a", PROMPT * 2]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    found = [
        {"commit": "a" * 40, "new_file": "a|b.py", "new_contents": f"x\n{PROMPT.upper()}"},
        {"commit": "b" * 40, "new_contents": "x"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.mark.parametrize("more", [[], ["--drop"], ["--report-only"]])
def test_rows_and_report(tmp_path: Path, benchmark: Path, more: list[str]) -> None:
    output = tmp_path / "out.jsonl"
    words = ["decontaminate", str(rows(tmp_path)), "--benchmark", f"made={benchmark}", "--output", str(output), *more]
    assert main(words) == 0
    drops = [row.drop for row in read_rows(output)]
    assert drops == {"": ["contaminated", None], "--drop": [None], "--report-only": [None, None]}["".join(more)]
    report = json.loads((tmp_path / "out.jsonl.contamination.json").read_text())
    assert [row["commit"][0] for row in report["rows"]] == ["a"]
    assert report["rows"][0]["found"][0] == "made/Made/0/prompt in new_contents, exact"
    assert report["benchmarks"] == {"made": {"texts": 4, "left_out": 2}}
    text = (tmp_path / "out.jsonl.contamination.md").read_text()
    assert "| made | 4 | 2 | 1 |" in text and "a\\|b.py" in text


def test_a_second_start_changes_nothing(tmp_path: Path, benchmark: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "in.parquet", 20)
    words = ["decontaminate", str(source), "--benchmark", f"made={benchmark}", "--output", str(tmp_path / "out")]
    assert main(words) == main(words) == 0
    assert "is complete already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("made", "not a benchmark"),
        ("made=/nowhere.jsonl", "no such file"),
        ("made={folder}", "no file of jsonl with 'made' in its name"),
        ("made={file}:nothing", "not a row of the benchmark: KeyError"),
        ("made={broken}", "not a row of the benchmark"),
        ("made={empty}", "no texts of 'made'"),
    ],
)
def test_wrong_benchmarks_write_nothing(tmp_path: Path, benchmark: Path, words: str, what: str) -> None:
    source = rows(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.jsonl").write_text("{]\n")
    (tmp_path / "empty.jsonl").write_text('{"other": 1}\n')
    before = sorted(tmp_path.iterdir())
    places = {name: tmp_path / f"{name}.jsonl" for name in ("broken", "empty")}
    given = words.format(folder=tmp_path / "folder", file=benchmark, **places)
    with pytest.raises(OctoError, match=what):
        main(["decontaminate", str(source), "--benchmark", given, "--output", str(tmp_path / "out")])
    assert sorted(tmp_path.iterdir()) == before
