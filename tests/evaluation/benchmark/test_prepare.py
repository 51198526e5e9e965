"""Tests of rebuilding the rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.evaluation.benchmark.prepare import prepare
from megatron_octo.evaluation.benchmark.repairs import repaired_row
from megatron_octo.evaluation.benchmark.rows import read_rows
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import needs_rows, published
from tests.places import SHARED

ADDED = ["buggy_solution", "bug_type", "failure_symptoms", "entry_point", "signature", "docstring", "instruction"]


def _records(language: str) -> list[dict[str, Any]]:
    with gzip.open(SHARED / f"humanevalpack_{language}.jsonl.gz", "rt", encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def _sources(folder: Path) -> None:
    """Write sources as the published rows imply them: without the added fields, Rust's comment alone in its prompt."""
    names = [{"entry_point": record["entry_point"]} for record in _records("python")]
    (folder / "HumanEval_original.jsonl").write_text("\n".join(map(json.dumps, names)))
    for language in LANGUAGES:
        records, inner = _records(language), folder / "data" / language / "data"
        inner.mkdir(parents=True)
        bugs = [{name: record[name] for name in ADDED[:3]} for record in records]
        for number, record in enumerate(records):
            for name in ADDED:
                del record[name]
            if language == "go":  # it has another docstring, which is replaced
                order = list(record)
                order.insert(3, "docstring")
                record["docstring"] = ""
                record = records[number] = {name: record[name] for name in order}
            if language == "rust":
                record["prompt"] = _comment(record["prompt"], record["declaration"])
        (inner / "humaneval.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        (inner / "humanevalpack.json").write_text(json.dumps(bugs))


def _comment(prompt: str, declaration: str) -> str:
    place = max(declaration.rfind("\nfn "), declaration.rfind("\npub fn "))
    head, tail = f"fn main(){{}}\n{declaration[:place]}\n", "\n" + declaration[place:].lstrip()
    assert prompt.startswith(head) and prompt.endswith(tail)
    return prompt[len(head) : len(prompt) - len(tail)]


@needs_rows
def test_rebuilds_the_published_files(tmp_path: Path) -> None:
    _sources(tmp_path)
    made = prepare(tmp_path, tmp_path / "new" / "out")
    assert [(one.language, one.rows, one.expected) for one in made] == [(name, 164, True) for name in LANGUAGES]
    assert [one.note for one in made[1:]] == ["as published"] * 5
    assert made[0].note == "as published, except for the stray quote in row 142"
    for one in made:
        assert digest_file(one.path) == one.digest
        assert [repaired_row(row) for row in read_rows(one.path.parent, one.language)] == list(published(one.language))


@needs_rows
def test_says_what_differs(tmp_path: Path) -> None:
    _sources(tmp_path)
    path = tmp_path / "data/go/data/humaneval.jsonl"
    path.write_text(path.read_text().replace("func HasCloseElements", "func  HasCloseElements"))
    made = {one.language: one for one in prepare(tmp_path, tmp_path)}
    assert (made["go"].note, made["go"].expected) == ("differs from what was published", False)
    assert made["js"].expected


@needs_rows
@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("HumanEval_original.jsonl", None, "cannot be read"),
        ("HumanEval_original.jsonl", "{}\n" * 164, "a field is missing: 'entry_point'"),
        ("data/rust/data/humaneval.jsonl", "{", "cannot be read"),
        ("data/rust/data/humaneval.jsonl", "{}", "differ in their number of rows"),
        ("data/rust/data/humaneval.jsonl", '{"declaration": 3, "prompt": "x"}\n' * 164, "not a row of HumanEval-X"),
        ("data/java/data/humanevalpack.json", "{}", "rows that are not objects"),
        ("data/java/data/humanevalpack.json", "[" * 100_000, "cannot be read"),
    ],
)
def test_refuses_other_sources_and_writes_nothing(tmp_path: Path, name: str, text: str | None, what: str) -> None:
    _sources(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(OctoError, match=what):
        prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
