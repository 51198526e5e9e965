"""Owners that opted out, and languages, by their functions and as commands on rows."""

import dataclasses
import gzip
import json
from pathlib import Path

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import Row
from megatron_octo.commits.tables.optout import default_owners, opt_out, owner_of


def row(**fields: str) -> Row:
    names = {field.name: "" for field in dataclasses.fields(Row) if field.type in ("str", str)}
    return Row(**{**names, "commit": "a" * 40, "old_file": "a.py", "new_file": "a.py", "repos": "x/y", **fields})


def run(tmp_path: Path, command: str, rows: list[dict[str, str]], *more: str) -> list[dict[str, str]]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl.gz"
    source.write_text("".join(json.dumps(each) + "\n" for each in rows))
    assert main([command, str(source), "--output", str(target), *more]) == 0
    with gzip.open(target, "rt") as file:
        return [json.loads(line) for line in file]


BASE = {
    "commit": "a" * 40, "old_file": "a.py", "new_file": "a.py", "old_contents": "x = 1\n", "new_contents": "x = 2\n",
    "subject": "Change x", "message": "Change x", "license": "mit", "repos": "someone/else",
}  # fmt: skip


def test_owners_in_any_case_of_every_repository() -> None:
    logins = default_owners().logins
    assert len(logins) == 44 and owner_of("A/b") == "a"
    some = next(iter(logins))
    assert opt_out(row(repos=f"{some.upper()}/a"), frozenset(logins)).drop
    assert opt_out(row(repos=f"{some}/a,{some}/a"), frozenset(logins)).drop
    kept = opt_out(row(repos=f"{some}/a,other/b"), frozenset(logins))
    assert not kept.drop and kept.repos == "other/b"


def test_opted_out_rows_are_dropped_by_the_command(tmp_path: Path) -> None:
    owners = tmp_path / "owners.txt"
    owners.write_text("Someone\n")
    found = run(tmp_path, "optout", [BASE, {**BASE, "repos": "good/one"}], "--opt-out", str(owners))
    assert [bool(each.get("drop")) for each in found] == [True, False]


def test_languages_are_set_by_the_command(tmp_path: Path) -> None:
    found = run(tmp_path, "languages", [BASE, {**BASE, "old_file": "Dockerfile", "new_file": "Dockerfile"}])
    assert [each["lang"] for each in found] == ["Python", "Dockerfile"]
