"""The unfinished output of a conversion: what is complete in it survives a kill, and nobody takes it for the result.

Beside ``OUT`` there is ``.OUT.partial`` with the files that are done and a journal of their digests. The same command
goes on from there; a command that would write something else starts afresh. Renamed to ``OUT``, it is complete.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_octo.checkpoint.digest import FileRecord, differing
from megatron_octo.errors import OctoError
from megatron_octo.files import read_json, sync_directory, write_json

_JOURNAL = ".journal.json"


class PartialOutput:
    """The directory that will be ``output``.

    Args:
        job: what is written and from what; files of another job are of no use.

    Attributes:
        path: where to write.
        done: files that are complete, with their sizes and digests.
        note: what was recorded last beside them.

    Raises:
        OctoError: ``output`` exists and is not an empty directory, or another process works on it.
    """

    def __init__(self, output: str | Path, job: Mapping[str, Any]):
        self.output = Path(output)
        if self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise OctoError(
                "the output exists already", where=self.output, hint="remove it or choose another name"
            )
        self.path = self.output.with_name(f".{self.output.name}.partial")
        self._job = dict(job)
        self.note: dict[str, Any] = {}
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise OctoError(
                "another process writes the same output", where=self.path, hint="wait for it, or end it"
            ) from None
        except OSError:
            pass  # some shared file systems have no locks
        self.done = self._found()

    def _found(self) -> dict[str, FileRecord]:
        """Complete files of an earlier attempt at the same job; all else is removed."""
        found: dict[str, FileRecord] = {}
        try:
            tree: Any = read_json(self.path / _JOURNAL)
            if tree["job"] == self._job:
                found = {
                    name: record for name, record in tree["files"].items() if (self.path / name).is_file()
                }
                self.note = tree["note"]
        except (OctoError, LookupError, TypeError, AttributeError):
            pass  # none, or a damaged one: begin afresh
        paths = {self.path / name: record["digest"] for name, record in found.items()}
        for path in differing(paths):
            del found[str(path.relative_to(self.path))]
        for path in self._files():
            if path.name != _JOURNAL and str(path.relative_to(self.path)) not in found:
                path.unlink()
        return found

    def _files(self) -> list[Path]:
        return [path for path in self.path.rglob("*") if path.is_file()]

    def record(self, files: Mapping[str, FileRecord], note: Mapping[str, Any]) -> None:
        """Files that are complete and on the disk."""
        self.done.update(files)
        write_json(self.path / _JOURNAL, {"job": self._job, "files": self.done, "note": dict(note)})

    def remove(self, names: list[str]) -> None:
        """Remove files that were begun."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def commit(self) -> None:
        """Give the directory its name."""
        for path in self._files():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        (self.path / _JOURNAL).unlink(missing_ok=True)
        sync_directory(self.path)
        os.replace(self.path, self.output)
        sync_directory(self.output.parent)

    def discard(self) -> None:
        """Remove all of it: it is of no use to a later attempt."""
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.done:
            self.discard()
        os.close(self._lock)
