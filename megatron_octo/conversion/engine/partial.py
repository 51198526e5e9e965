"""The unfinished output of a conversion: its complete files survive a kill.

Beside ``OUT`` lies ``.OUT.partial`` with complete files in ``files`` and a journal of their digests. The same command
goes on from there; another command starts afresh. When all files are complete, ``files`` is renamed to ``OUT``; the
journal is removed later, so that a kill on either side of the rename loses nothing.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_octo.checkpoint.digest import FileRecord, differing
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import new_directory, read_json, sync_directory, sync_tree, write_json
from megatron_octo.common.leases import flock

_JOURNAL = ".journal.json"
_FILES = "files"


def _partial_name(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _sweep(output: str | Path) -> None:
    """Remove the journal that a kill right after the rename left."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is not there, or not a valid name
        root = _partial_name(Path(output).resolve())
        if [path.name for path in root.iterdir()] in ([], [_JOURNAL]):
            shutil.rmtree(root, ignore_errors=True)


class PartialOutput:
    """The directory that will be ``output``.

    Args:
        job: input and options; files of another job are removed.

    Attributes:
        path: where to write.
        done: complete files with their sizes and digests.
        note: the last note recorded beside them.

    Raises:
        OctoError: ``output`` exists and is not an empty directory, is a mount point, or another process works on it.
    """

    def __init__(self, output: str | Path, job: Mapping[str, Any]):
        try:
            self.output = new_directory(output)
        except OctoError:
            _sweep(output)
            raise
        self._root = _partial_name(self.output)
        self.path = self._root / _FILES
        self._job = dict(job)
        self.note: dict[str, Any] = {}
        self.path.mkdir(parents=True, exist_ok=True)
        busy = OctoError("another process writes the same output", where=self._root, hint="wait for it, or end it")
        self._lock = flock(self._root, busy)
        self.done = self._found()

    def _found(self) -> dict[str, FileRecord]:
        """Return complete files of an earlier attempt at the same job; everything else is removed."""
        found: dict[str, FileRecord] = {}
        try:
            tree: Any = read_json(self._root / _JOURNAL)
            if tree["job"] == self._job:
                found = {name: record for name, record in tree["files"].items() if (self.path / name).is_file()}
                self.note = tree["note"]
        except (OctoError, LookupError, TypeError, AttributeError):
            pass  # none, or a damaged one: begin afresh
        paths = {self.path / name: record["digest"] for name, record in found.items()}
        for path in differing(paths):
            del found[str(path.relative_to(self.path))]
        for path in sorted(self._root.rglob("*"), reverse=True):
            kept = path == self._root / _JOURNAL or (path in paths and str(path.relative_to(self.path)) in found)
            if path.is_dir():
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()
            elif not kept:
                path.unlink()
        self.path.mkdir(exist_ok=True)
        return found

    def record(self, files: Mapping[str, FileRecord], note: Mapping[str, Any]) -> None:
        """Add files that are complete and on the disk to the journal."""
        self.done.update(files)
        write_json(self._root / _JOURNAL, {"job": self._job, "files": self.done, "note": dict(note)})

    def remove(self, names: list[str]) -> None:
        """Remove incomplete files."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def commit(self) -> None:
        """Rename the directory to its final name."""
        sync_tree(self.path)
        os.replace(self.path, self.output)
        sync_directory(self.output.parent)
        self.discard()

    def discard(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.done:
            self.discard()
        os.close(self._lock)
