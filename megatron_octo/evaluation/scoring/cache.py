"""Verdicts that were found before: by program, toolchain and limits."""

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.limits import Limits

_FORMAT = 1  # of the verdicts; a change of what a verdict means takes the next number
# What ran out of time on a busy machine may pass on an idle one.
_NOT_KEPT = (Kind.INFRASTRUCTURE, Kind.WALL_LIMIT)


class VerdictCache:
    """A file of verdicts that threads and processes may share.

    Args:
        path: the file; None: nothing is remembered.

    Every method raises OctoError if the file is damaged or cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock, self._path = threading.Lock(), path
        self._database: sqlite3.Connection | None = None
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._guarded():
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT)")

    @staticmethod
    def key(program: str, toolchain: str, limits: Limits) -> str:
        """Return the key of a program's digest, a toolchain's, and limits."""
        return digest_json([_FORMAT, program, toolchain, asdict(limits)])

    def get(self, key: str) -> Verdict | None:
        """Return the verdict of a key, marked as cached; None if there is none."""
        if self._database is None:
            return None
        with self._lock, self._guarded():
            found = self._database.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        record = json.loads(found[0])
        return Verdict(**{**record, "kind": Kind(record["kind"]), "cached": True})

    def put(self, key: str, verdict: Verdict) -> None:
        """Remember a verdict, except those that say more about the machine than about the program."""
        if self._database is None or verdict.kind in _NOT_KEPT:
            return
        text = json.dumps(asdict(replace(verdict, cached=False)))
        with self._lock, self._guarded():
            self._database.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database:
                self._database.close()
                self._database = None

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OctoError(
                f"the cache of verdicts fails: {error}",
                where=self._path,
                hint="remove the file (it holds nothing else), or --no-verdict-cache",
            ) from None
