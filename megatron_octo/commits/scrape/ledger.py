"""What was wanted and what was found, in a file of SQLite that survives kills.

A key names a file's version: a blob's id, or ``COMMIT:PATH`` and ``COMMIT^:PATH`` where a row has no ids.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from megatron_octo.common.errors import OctoError

OK, ABSENT = "ok", "absent"  # absent: the commit is there, and has no such file
GONE, NOT_FOUND, BROKEN = "repo_gone", "not_found", "broken"  # broken: the repository cannot send it
TIMEOUT, REFUSED = "timeout", "refused"
TOO_LARGE, BINARY, UNDECODABLE = "too_large", "binary", "undecodable"
FINAL = (OK, ABSENT, TOO_LARGE, BINARY, UNDECODABLE)  # no other repository would give something else
TRANSIENT = (TIMEOUT, REFUSED, BROKEN)  # another day may
# Which state a key has that several repositories did not give: the first of these that one of them had.
ORDER = (TIMEOUT, REFUSED, BROKEN, NOT_FOUND, GONE)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS wanted (key TEXT, repo TEXT, state TEXT, PRIMARY KEY (key, repo)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS found (key TEXT PRIMARY KEY, state TEXT NOT NULL, data BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open ON wanted (repo) WHERE state IS NULL;
"""


@dataclass(frozen=True)
class Found:
    """A key's state, and its text where the state is ok."""

    state: str
    text: str | None = None


class ScrapeLedger:
    """The file; inside a ``with`` block. One process writes at a time.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            OctoError: it is no file of SQLite, or damaged.
        """
        try:
            self._base = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            what = f"not a ledger of scrape: {error}"
            raise OctoError(what, where=self.path, hint="remove it, or choose another output") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def fact(self, name: str) -> str | None:
        """Return a fact about the ledger."""
        row = self._base.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Keep a fact."""
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [name, value])

    def want(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add keys with a repository each; known pairs stay as they are."""
        self._base.execute("BEGIN")
        self._base.executemany("INSERT OR IGNORE INTO wanted (key, repo) VALUES (?, ?)", pairs)
        self._base.execute("COMMIT")

    def next_round(self, most: int) -> Iterator[tuple[str, list[str]]]:
        """Yield repositories with the keys that are to be asked of them next, at most ``most`` of one at a time.

        Of each key that is not found yet it is the first repository, by name, that was not asked.
        """
        query = (
            "SELECT w.key, MIN(w.repo) AS first FROM wanted AS w LEFT JOIN found AS f ON f.key = w.key"
            " WHERE w.state IS NULL AND f.key IS NULL GROUP BY w.key ORDER BY first, w.key"
        )
        repo, keys = "", list[str]()
        reader = sqlite3.connect(self.path)  # sees the state of now, whatever is noted meanwhile
        for key, first in reader.execute(query):
            if keys and (first != repo or len(keys) == most):
                yield repo, keys
                keys = []
            repo = first
            keys.append(key)
        reader.close()
        if keys:
            yield repo, keys

    def settle(self, repo: str, found: Mapping[str, Found]) -> None:
        """Note what a repository gave for some keys."""
        final = [(key, each.state, _packed(each.text)) for key, each in found.items() if each.state in FINAL]
        self._base.execute("BEGIN")
        states = [(each.state, key, repo) for key, each in found.items()]
        self._base.executemany("UPDATE wanted SET state = ? WHERE key = ? AND repo = ?", states)
        self._base.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", final)
        self._base.execute("COMMIT")

    def forget_transient(self) -> None:
        """Ask again what was refused or took too long."""
        marks = ", ".join("?" for _ in TRANSIENT)
        self._base.execute(f"UPDATE wanted SET state = NULL WHERE state IN ({marks})", TRANSIENT)

    def left(self) -> int:
        """Return how many keys have a repository that was not asked, and are not found."""
        query = "SELECT COUNT(DISTINCT w.key) FROM wanted AS w LEFT JOIN found AS f ON f.key = w.key"
        return int(self._base.execute(f"{query} WHERE w.state IS NULL AND f.key IS NULL").fetchone()[0])

    def states(self) -> dict[str, int]:
        """Return the number of keys by state."""
        counts = dict(self._base.execute("SELECT state, COUNT(*) FROM found GROUP BY state").fetchall())
        cases = " ".join(f"WHEN '{state}' THEN {place}" for place, state in enumerate(ORDER))
        best = f"SELECT MIN(CASE state {cases} ELSE {ORDER.index(NOT_FOUND)} END) AS best FROM wanted"
        open_keys = f"{best} WHERE key NOT IN (SELECT key FROM found) GROUP BY key"
        for place, count in self._base.execute(f"SELECT best, COUNT(*) FROM ({open_keys}) GROUP BY best"):
            counts[ORDER[place]] = counts.get(ORDER[place], 0) + count
        return dict(sorted(counts.items()))

    def find(self, key: str) -> Found:
        """Return what was found for a key."""
        row = self._base.execute("SELECT state, data FROM found WHERE key = ?", [key]).fetchone()
        if row is not None:
            return Found(row[0], None if row[1] is None else zlib.decompress(row[1]).decode("utf-8"))
        tried = {state for (state,) in self._base.execute("SELECT state FROM wanted WHERE key = ?", [key])}
        return Found(next((state for state in ORDER if state in tried), NOT_FOUND))


def _packed(text: str | None) -> bytes | None:
    return None if text is None else zlib.compress(text.encode("utf-8"), 1)


def joined(states: Sequence[str]) -> str:
    """Return the state of a row whose sides have these states."""
    rest = [state for state in states if state not in (OK, ABSENT)]
    order = (*ORDER, TOO_LARGE, BINARY, UNDECODABLE)
    return min(rest, key=order.index) if rest else OK
