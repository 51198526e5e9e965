"""Verdicts of programs that ran before: equal programs, toolchains and limits give equal verdicts."""

import contextlib
import json
import sqlite3
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter, ValidationError

from megatron_octo.common.files import digest_json
from megatron_octo.common.records import Report, ignore
from megatron_octo.evaluation.languages.base import Program, Toolchain
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.limits import Limits

HARNESS = 1  # raised when the same program may get another verdict for a reason that no digest shows
_VERDICT = TypeAdapter(Verdict)
_UNSURE = (Kind.INFRASTRUCTURE, Kind.WALL_LIMIT)  # load of the machine may have decided
_WAIT = 60.0  # seconds for another process's write


def cache_key(program: Program, toolchain: Toolchain, limits: Limits) -> str:
    """Return the key of a verdict: a digest of all that decides it."""
    return digest_json([program.digest, toolchain.digest, asdict(limits), HARNESS])


class VerdictCache:
    """A file of verdicts that many threads and processes use at once. Without it all works, more slowly.

    A damaged file, or a file system that has no locks, is reported once; then nothing is kept.
    """

    def __init__(self, path: Path | None, report: Report = ignore) -> None:
        """Open the file, and make it if it is missing.

        Args:
            path: the file; None: keep nothing.
            report: takes a line if the file cannot be used.
        """
        self._lock, self._report, self._path = threading.Lock(), report, path
        self._base: sqlite3.Connection | None = None
        if path is not None:
            with self._trouble():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._base = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.execute("PRAGMA synchronous=NORMAL")
                self._base.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")

    def get(self, key: str) -> Verdict | None:
        """Return a verdict, marked as cached; None if there is none."""
        row: tuple[str] | None = None
        with self._lock, self._trouble():
            if self._base is not None:
                row = self._base.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        with contextlib.suppress(ValidationError):
            return replace(_VERDICT.validate_json(row[0]), cached=True)
        return None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict, unless the machine's load may have decided it."""
        if verdict.kind in _UNSURE:
            return
        text = json.dumps(asdict(replace(verdict, cached=False)))
        with self._lock, self._trouble():
            if self._base is not None:
                self._base.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._base is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._base.close()
                self._base = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _trouble(self):  # type: ignore[no-untyped-def]
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if self._base is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._base.close()
            self._base = None
            self._report(f"{self._path}: no cache of verdicts: {error}")
