"""``commits query``: options, conflicts of licences, statements that are shown, and columns of rows."""

from pathlib import Path

import pytest
import sqlglot

from benchmarks.made_lake import write_lake
from megatron_octo.commits.__main__ import main
from megatron_octo.commits.query.command import iso_date, person
from megatron_octo.commits.query.texts import STAGES
from megatron_octo.common.errors import OctoError
from tests.commits.query.test_engines import run


def test_conflicts_of_licences_can_be_dropped(tmp_path: Path) -> None:
    patterns = write_lake(tmp_path, 1000, 3)
    kept = run(patterns, tmp_path / "one.jsonl")
    dropped = run(patterns, tmp_path / "two.jsonl", "--conflict", "drop")
    assert [row.commit for row in kept] == [row.commit for row in dropped]
    assert any(row.drop for row in dropped)
    assert all((row.drop == "licence_conflict") == ("," in str(row.license)) for row in dropped)


@pytest.mark.parametrize("engine", ["duckdb", "spark", "bigquery"])
def test_statements_are_shown(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["query", "--engine", engine, "--data-set", "project.made", "--print"]) == 0
    parsed = [each for each in sqlglot.parse(capsys.readouterr().out, read=engine) if each]
    assert len(parsed) == len(STAGES)
    if engine == "bigquery":
        names = {table.sql("bigquery").split(" ")[0] for each in parsed for table in each.find_all(sqlglot.exp.Table)}
        assert "`bigquery-public-data.github_repos.commits`" in names and "`project.made.base`" in names


@pytest.mark.parametrize(
    "words",
    [["--engine", "bigquery"], [], ["--output", "x"], ["--output", "x", "--threads", "0"]],
)
def test_missing_options_are_named(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OctoError):
        main(["query", *words])
    assert not list(tmp_path.iterdir())


def test_an_output_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine\n")
    with pytest.raises(OctoError, match="exists already"):
        run(write_lake(tmp_path, 50), tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


def test_persons_and_dates() -> None:
    assert person("A", "a@b.c") == "A <a@b.c>" and person(None, "a@b.c") == " <a@b.c>" and person(None, "") is None
    assert iso_date(0, 120) == "1970-01-01T02:00:00+02:00" and iso_date(None, 0) is None
    assert iso_date(1_500_000_000, -420) == "2017-07-13T19:40:00-07:00"
    assert iso_date(10**18, 0) is None and iso_date(0, 10**9) is None
