"""Tests of rows."""

import gzip
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import data_digest, read_rows
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import needs_rows, published, row
from tests.places import SHARED


def _line(language: str = "go", **changed: object) -> str:
    record = asdict(row(language)) | changed
    record["import"] = record.pop("imports")
    return json.dumps({name: value for name, value in record.items() if name not in ("language", "number")})


@pytest.mark.parametrize("name", ["humanevalpack_go.jsonl", "go/data/humanevalpack.jsonl", "humanevalpack_go.jsonl.gz"])
def test_finds_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _line(task_id="Go/1", imports="x") + "\n" + _line() + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    rows = read_rows(tmp_path, "go")
    assert [(found.number, found.entry_point) for found in rows] == [(0, "doubled"), (1, "doubled")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "no text in task_id, prompt"),
        (_line(prompt=3), "no text in prompt"),
        (_line(task_id="Python/0"), "is not one of go"),
        (_line(task_id="Go/x"), "is not one of go"),
        (_line() + "\n" + _line(), "comes twice"),
        (_line(test="\ud800"), "surrogate"),
        ("", "no rows"),
    ],
)
def test_refuses_what_is_no_row(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "humanevalpack_go.jsonl"
    path.write_text(text)
    with pytest.raises(OctoError, match=what) as caught:
        read_rows(tmp_path, "go")
    assert str(path) in str(caught.value)


def test_refuses_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no rows of HumanEvalPack in rust"):
        read_rows(tmp_path, "rust")
    whole = gzip.compress(b"x" * 1000)
    for data in (b"no gzip", whole[:-9], whole[:20] + b"\xff" * 20):
        (tmp_path / "humanevalpack_rust.jsonl.gz").write_bytes(data)
        with pytest.raises(OctoError, match="cannot be read"):
            read_rows(tmp_path, "rust")


def test_reads_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "go.jsonl").write_text(_line(task_id="Go/1", imports="x") + "\n" + _line() + "\n")
    config = "configs:\n- config_name: go\n  data_files:\n  - split: test\n    path: rows/go.jsonl\n"
    (folder / "README.md").write_text(f"---\n{config}---\n")
    assert [(found.number, found.imports) for found in read_rows(f"hf:{folder}", "go")] == [(0, ""), (1, "x")]
    with pytest.raises(OctoError, match="cannot be loaded"):
        read_rows(f"hf:{folder}", "rust")


def test_digest_depends_on_every_field() -> None:
    digests = {data_digest([row("go")])}
    for name in asdict(row("go")):
        if name not in ("language", "number"):
            digests.add(data_digest([row("go", **{name: "changed"})]))
    assert len(digests) == 1 + 15


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
def test_reads_the_published_rows(language: str) -> None:
    rows = published(language)
    assert [found.number for found in rows] == list(range(164))
    assert all(found.canonical_solution != found.buggy_solution for found in rows)
    assert bool(rows[0].test_setup) == (language == "go")
    assert read_rows(SHARED, language) == list(rows)
