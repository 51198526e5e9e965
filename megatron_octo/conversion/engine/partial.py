"""The unfinished output of a conversion: what is complete in it survives a kill, and nobody takes it for the result.

Beside ``OUT`` there is ``.OUT.partial``: in ``files`` those that are done, and a journal of their digests. The same
command goes on from there; a command that would write something else starts afresh. When all are complete, ``files`` is
renamed to ``OUT``; the journal outlives that moment, so that a kill on either side of it loses nothing.
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
    """Remove what a kill left that came right after the result got its name: the journal alone."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # it is not there, or its name is none
        root = _partial_name(Path(output).resolve())
        if [path.name for path in root.iterdir()] in ([], [_JOURNAL]):
            shutil.rmtree(root, ignore_errors=True)


class PartialOutput:
    """The directory that will be ``output``.

    Args:
        job: what is written and from what; files of another job are of no use.

    Attributes:
        path: where to write.
        done: files that are complete, with their sizes and digests.
        note: what was recorded last beside them.

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
        busy = OctoError(
            "another process writes the same output", where=self._root, hint="wait for it, or end it"
        )
        self._lock = flock(self._root, busy)
        self.done = self._found()

    def _found(self) -> dict[str, FileRecord]:
        """Complete files of an earlier attempt at the same job; all else is removed."""
        found: dict[str, FileRecord] = {}
        try:
            tree: Any = read_json(self._root / _JOURNAL)
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
        for path in sorted(self._root.rglob("*"), reverse=True):
            kept = path == self._root / _JOURNAL or (
                path in paths and str(path.relative_to(self.path)) in found
            )
            if path.is_dir():
                with contextlib.suppress(OSError):  # it is not empty
                    path.rmdir()
            elif not kept:
                path.unlink()
        self.path.mkdir(exist_ok=True)
        return found

    def record(self, files: Mapping[str, FileRecord], note: Mapping[str, Any]) -> None:
        """Files that are complete and on the disk."""
        self.done.update(files)
        write_json(self._root / _JOURNAL, {"job": self._job, "files": self.done, "note": dict(note)})

    def remove(self, names: list[str]) -> None:
        """Remove files that were begun."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def commit(self) -> None:
        """Give the directory its name."""
        sync_tree(self.path)
        os.replace(self.path, self.output)
        sync_directory(self.output.parent)
        self.discard()

    def discard(self) -> None:
        """Remove all of it: it is of no use to a later attempt."""
        shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.done:
            self.discard()
        os.close(self._lock)
