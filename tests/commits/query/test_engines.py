"""DuckDB and Spark give the rows of a plain implementation, byte for byte, on hostile commits."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from benchmarks.made_lake import write_lake
from megatron_octo.commits.__main__ import main
from megatron_octo.commits.query import texts
from megatron_octo.commits.query.engines import Sources, run_duckdb
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.query.reference import expected


def run(patterns: dict[str, str], output: Path, *more: str) -> list[Row]:
    words = [word for table, pattern in patterns.items() for word in (f"--{table}", pattern)]
    assert main(["query", *words, "--output", str(output), *more]) == 0
    return list(read_rows(output))


def differing(rows: list[Row], wanted: dict[str, dict[str, str]]) -> list[str]:
    found = {row.commit: {name: getattr(row, name) for name in next(iter(wanted.values()))} for row in rows}
    return [commit for commit in {**found, **wanted} if found.get(commit) != wanted.get(commit)]


def test_duckdb_equals_plain_python(tmp_path: Path) -> None:
    rows = run(write_lake(tmp_path, 3000, 1, 1000), tmp_path / "out.parquet")
    wanted = expected(tmp_path)
    assert len(rows) > 100 and differing(rows, wanted) == []
    assert [row.commit for row in rows] == sorted(wanted)
    assert any("," in row.license for row in rows if row.license) and any("," in row.repos for row in rows)


def test_a_planted_fault_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = write_lake(tmp_path, 3000, 1)
    whole = texts.statement
    wrong = {"r'^[ \\t\\r\\n]+|[ \\t\\r\\n]+$'": "r'^$'", "^[ \\t\\r\\n]+|[ \\t\\r\\n]+$": "^$"}

    def statement(stage: str, dialect: texts.Dialect, prefix: str = "") -> str:
        text = whole(stage, dialect, prefix)
        for good, bad in wrong.items():
            text = text.replace(good, bad)
        return text

    monkeypatch.setattr("megatron_octo.commits.query.engines.statement", statement)
    assert differing(run(patterns, tmp_path / "out.jsonl"), expected(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("java") or not importlib.util.find_spec("pyspark"), reason="needs Java and pyspark"
)
def test_spark_equals_duckdb(tmp_path: Path) -> None:
    patterns = write_lake(tmp_path, 20_000, 0, 7000)
    first = run(patterns, tmp_path / "one.jsonl")
    run(patterns, tmp_path / "two.jsonl", "--engine", "spark", "--master", "local[2]", "--memory", "1GB")
    assert len(first) > 1000 and differing(first, expected(tmp_path)) == []
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_finished_stages_are_taken_and_other_jobs_are_not(tmp_path: Path) -> None:
    patterns = write_lake(tmp_path, 500, 2)
    wanted = run(patterns, tmp_path / "out.jsonl", "--keep-tables")
    (tmp_path / "out.jsonl").unlink()
    said: list[str] = []
    sources = Sources.find(patterns)
    work = tmp_path / "out.jsonl.query"
    with run_duckdb(sources, work, memory="1GB", threads=1, say=lambda *each: said.append(each[0])):
        assert said == list(texts.STAGES)  # without a statement: DuckDB would refuse to make a table twice
    assert run(patterns, tmp_path / "out.jsonl", "--threads", "1") == wanted
    assert not (tmp_path / "out.jsonl.query").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"commits": "nothing-*.parquet"}, "no file of the table 'commits'"),
        ({"languages": "licenses.parquet"}, "no column 'language'"),
        ({"licenses": "damaged.parquet"}, "not a parquet file, or a damaged one"),
    ],
)
def test_wrong_tables_write_nothing(tmp_path: Path, change: dict[str, str], what: str) -> None:
    patterns = write_lake(tmp_path, 50)
    (tmp_path / "damaged.parquet").write_bytes((tmp_path / "licenses.parquet").read_bytes()[:-20])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OctoError, match=what):
        run(patterns | {table: str(tmp_path / name) for table, name in change.items()}, tmp_path / "out.jsonl")
    assert sorted(tmp_path.iterdir()) == before
