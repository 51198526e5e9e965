"""Made tables in the shape of BigQuery's ``github_repos``: commits with hostile messages, paths and repositories."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PERSON = pa.struct({"name": pa.string(), "email": pa.string(), "time_sec": pa.int64(), "tz_offset": pa.int64()}.items())
FILE = pa.struct(
    {
        "old_mode": pa.int64(),
        "new_mode": pa.int64(),
        "old_path": pa.string(),
        "new_path": pa.string(),
        "old_sha1": pa.string(),
        "new_sha1": pa.string(),
    }.items()
)
COMMITS = pa.schema(
    {
        "commit": pa.string(),
        "author": PERSON,
        "committer": PERSON,
        "subject": pa.string(),
        "message": pa.string(),
        "difference": pa.list_(FILE),
        "difference_truncated": pa.bool_(),
        "repo_name": pa.list_(pa.string()),
    }
)
LANGUAGE = pa.struct([("name", pa.string()), ("bytes", pa.int64())])
LANGUAGES = pa.schema([("repo_name", pa.string()), ("language", pa.list_(LANGUAGE))])
LICENSES = pa.schema([("repo_name", pa.string()), ("license", pa.string())])

HOSTILE = (
    "Initial commit\n", "  update readme.md\t\n", "Update README.md", "\u0130nitial commit",
    "\u00a0update readme\u00a0",
    "Merge branch 'x'\n", "merges all of it", "\n\tMerge pull request\n", "wip", "Add it \U0001f600 everywhere", None,
    "", "\u0130 upper case with a dot", "update _config.yaml", "update xconfig.yaml",
    "Fix \\ and ' and \" and ; -- it\n",
    "a" * 10_000, "a" * 9_999, "12345", "123456", " 123456 ", "First\u2028line and more",
    "T\u00dcRK\u0130YE \u00e9t\u00e9",
    "can't you see I'm updating the time?\n", "nul \u0000 inside", "\r\nAdd a test\r\n", "e\u0301" * 3,
    "%_%_%_ likes",
)  # fmt: skip
PATHS = ("a.py", "src/b c.rs", "it's.js", 'q"u;o$(t)e.go', "\u00fc/\U0001f600.md", "Dockerfile", "x\ny.c")
SPOKEN = ("Python", "Java", "Perl 6", "Perl", "perl", "Brainfuck", "HTML", "C", "TeX", "MATLAB", "Go", "Vim script")
TERMS = ("mit", "apache-2.0", "gpl-2.0", "bsd-3-clause", "MIT", "isc", "gpl-3.0", "unlicense")


def made_commits(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield rows of the table of commits; some ids come twice, in other repositories."""
    r = random.Random(seed)
    repositories = max(4, count // 12)
    before: list[dict[str, Any]] = []
    for _ in range(count):
        if before and r.random() < 0.02:
            again = dict(r.choice(before))
            again["repo_name"] = [_repository(r.randrange(repositories))]
            again["difference_truncated"] = r.choice([None, True, False])
            yield again
            continue
        message = r.choice(HOSTILE) if r.random() < 0.3 else f"Change part {r.randrange(10**6)} of it\n\nand more\n"
        person: dict[str, Any] = {
            "name": r.choice(["Anna", "", None, "Ö <x>"]),
            "email": r.choice(["a@b.org", None, ""]),
        }
        person |= {
            "time_sec": r.choice([0, -1, 1_500_000_000, None, 10**11]),
            "tz_offset": r.choice([0, 120, -420, None]),
        }
        names = [_repository(r.randrange(repositories)) for _ in range(r.choice((1, 1, 1, 2, 3, 0)))]
        row = {
            "commit": f"{r.getrandbits(160):040x}",
            "author": person if r.random() < 0.95 else None,
            "committer": person,
            "subject": None if message is None else message.strip().split("\n")[0],
            "message": message,
            "difference": _difference(r) if r.random() < 0.97 else None,
            "difference_truncated": r.choice([None, None, None, False, False, True]),
            "repo_name": [*names, names[0]] if names and r.random() < 0.1 else names,
        }
        if r.random() < 0.05:
            before.append(row)
        yield row


def _repository(number: int) -> str:
    return f"owner{number % 50}/repo{number}"


def _difference(r: random.Random) -> list[dict[str, Any]]:
    found = []
    for _ in range(r.choice((0, 1, 1, 1, 1, 2, 5))):
        path = r.choice(
            ["a.py", "src/b c.rs", "it's.js", 'q"u;o$(t)e.go', "\u00fc/\U0001f600.md", "Dockerfile", "x\ny.c"]
        )
        kind = r.choice(("edit", "edit", "edit", "edit", "add", "remove", "rename", "link", "module"))
        mode = {"link": 40960, "module": 57344}.get(kind, 33188)
        part = {"old_mode": mode, "new_mode": mode, "old_path": path, "new_path": path}
        part |= {"old_sha1": f"{r.getrandbits(160):040x}", "new_sha1": f"{r.getrandbits(160):040x}"}
        if kind == "add":
            part |= {"old_mode": None, "old_path": None, "old_sha1": None}
        elif kind == "remove":
            part |= {"new_mode": None, "new_path": None, "new_sha1": None}
        elif kind == "rename":
            part["new_path"] = f"new/{path}"
        found.append(part)
        if r.random() < 0.03:
            found.append(dict(part))
    return found


def write_lake(folder: Path, count: int, seed: int = 0, rows: int = 100_000) -> dict[str, str]:
    """Write the three tables; returns a pattern of files for each. Commits come in files of ``rows``."""
    made = made_commits(count, seed)
    for number in range(-(-count // rows)):
        block = [row for row, _ in zip(made, range(min(rows, count - number * rows)))]
        pq.write_table(pa.Table.from_pylist(block, COMMITS), folder / f"commits-{number:03d}.parquet")
    r = random.Random(seed + 1)
    names = [_repository(number) for number in range(max(4, count // 12))]
    spoken = [
        {
            "repo_name": name,
            "language": [{"name": each, "bytes": 1} for each in r.sample(SPOKEN, r.choice((0, 2, 4)))],
        }
        for name in names
        if r.random() < 0.95
    ]
    terms = [
        {"repo_name": name, "license": term}
        for name in names
        if r.random() < 0.95
        for term in r.sample(TERMS, r.choice((1, 1, 1, 2)))
    ]
    pq.write_table(pa.Table.from_pylist(spoken, LANGUAGES), folder / "languages.parquet")
    pq.write_table(pa.Table.from_pylist(terms, LICENSES), folder / "licenses.parquet")
    return {
        "commits": str(folder / "commits-*.parquet"),
        "languages": str(folder / "languages.parquet"),
        "licenses": str(folder / "licenses.parquet"),
    }
