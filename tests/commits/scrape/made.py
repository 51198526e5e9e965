"""Repositories with hostile names and files, and rows as ``query`` makes them, without contents."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import Row, Writer, read_rows
from tests.commits.history.made import HOSTILE, Repository


def make_repository(base: Path, name: str, seed: int = 0) -> Repository:
    """Make ``base/NAME.git`` with edits of files whose names and contents are hostile."""
    repository = Repository(base / f"{name}.git")
    names = [each for each in HOSTILE if not each.startswith(b"caf")]
    repository.write(dict.fromkeys(names, b"one %d\n" % seed))
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "Begin")
    for number, each in enumerate(names):
        repository.write({each: b"two %d %d\n" % (seed, number)})
        repository.git("add", "-A")
        repository.git("commit", "-q", "-m", f"Change {number}")
    repository.write({b"empty.py": b""})
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "Make a file")
    for content in (b"binary \0\n", b"x\n", b"not UTF-8 \xff\n", b"", b"large\n" * 1000, b"y\n", b"", b"end\n"):
        repository.write({b"empty.py": content})
        repository.git("add", "-A")
        repository.git("commit", "-q", "-m", f"Change to {len(content)}")
    repository.git("config", "http.getanyfile", "true")
    return repository


def rows_of(base: Path, name: str, folder: Path) -> list[Row]:
    """Return the repository's rows with contents, as ``history`` reads them."""
    output = folder / f"{name.replace('/', '-')}.jsonl"
    words = ["--license", "mit", "--max-bytes", "5000"]
    main(["history", f"{name}={base / f'{name}.git'}", "--output", str(output), *words])
    return list(read_rows(output))


def without_contents(rows: Iterable[Row], *, blobs: bool = True) -> list[Row]:
    """Return rows as ``query`` makes them."""
    bare = {"old_contents": None, "new_contents": None, "drop": None, "drop_why": None}
    more = {} if blobs else {"old_blob": None, "new_blob": None}
    return [replace(row, signals={}, **bare, **more) for row in rows]  # type: ignore[arg-type]


def write(path: Path, rows: Iterable[Row]) -> Path:
    with Writer(path) as writer:
        for row in rows:
            writer.write(row)
    return path
