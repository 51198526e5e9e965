"""Finished parts of a stage beside its output, so that a kill costs only the parts that were being made."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.commits.rows.reading import MANIFEST, SUFFIXES, manifest_of
from megatron_octo.commits.rows.row import COLUMNS
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import (
    atomic_write,
    digest_file,
    read_json,
    remove_leftovers,
    sync_directory,
    write_json,
)
from megatron_octo.common.leases import flock

Record = dict[str, Any]


class Ledger:
    """``OUTPUT.work``: parts with a record each, and at last the manifest.

    Args:
        output: a folder that will hold the parts, or one file that joins them (its suffix decides).
        job: digest of all that the output follows from.
        columns: those of text that every row has.

    Attributes:
        path: the directory.
        suffix: of the parts.
    """

    def __init__(self, output: Path, job: str, columns: Sequence[str] = COLUMNS):
        self.output, self.job, self._columns = output, job, columns
        self.path = output.with_name(f"{output.name}.work")
        self.one_file = output.name.endswith(SUFFIXES)
        self.suffix = next((each for each in reversed(SUFFIXES) if output.name.endswith(each)), ".parquet")

    def is_complete(self) -> bool:
        """Return whether the output is there, made by the same job.

        Raises:
            OctoError: something else is there.
        """
        if not self.output.exists() and not self.output.is_symlink():
            return False
        with contextlib.suppress(OctoError):
            manifest = read_json(manifest_of(self.output))
            if isinstance(manifest, dict) and manifest.get("job") == self.job:
                return True
        if self.output.is_dir() and not any(self.output.iterdir()):
            return False
        hint = "remove it or choose another name"
        raise OctoError("the output exists already, made from other inputs or settings", where=self.output, hint=hint)

    @contextlib.contextmanager
    def held(self, *, together: bool = False) -> Iterator[None]:
        """Make the directory and hold it against other processes; removes what killed ones left half written.

        Args:
            together: hold it with other processes that make other parts; nothing is removed then.

        Raises:
            OctoError: another process works on the same output.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        hint = "wait for it, end it, or choose another output"
        busy = OctoError("another process makes the same output", where=self.output, hint=hint)
        handle = flock(self.path, busy, shared=together)
        try:
            if not together:
                remove_leftovers(self.path)
            yield
        finally:
            os.close(handle)
            with contextlib.suppress(OSError):
                self.path.rmdir()  # only where it is empty

    def part(self, number: int) -> Path:
        """Return where a part lies."""
        return self.path / f"part-{number:05d}{self.suffix}"

    def _record(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.json"

    def find(self, number: int, identity: str) -> Record | None:
        """Return the record of a finished part, None if it has to be made; one that does not fit is removed."""
        with contextlib.suppress(OctoError):
            record = read_json(self._record(number))
            if isinstance(record, dict) and record.get("identity") == identity:
                part = self.part(number)
                if part.is_file() and digest_file(part) == record.get("digest"):
                    return record
        self.forget(number)
        return None

    def forget(self, number: int) -> None:
        """Remove a part."""
        self._record(number).unlink(missing_ok=True)
        self.part(number).unlink(missing_ok=True)

    def note(self, number: int, identity: str, facts: Mapping[str, Any]) -> Record:
        """Record a part that was just written; returns the record."""
        part = self.part(number)
        record = {"name": part.name, "identity": identity, "bytes": part.stat().st_size, "digest": digest_file(part)}
        write_json(self._record(number), record | dict(facts))
        return record | dict(facts)

    def finish(self, parts: list[Record], manifest: Record) -> None:
        """Put the output into its place; a kill on the way leaves a directory from which the next start finishes."""
        wanted = {str(part["name"]) for part in parts}
        for path in self.path.iterdir():
            if path.name.startswith("part-") and path.suffix != ".json" and path.name not in wanted:
                path.unlink()
        if self.one_file:
            self._join(parts, manifest)
        else:
            self._rename(parts, manifest)

    def _rename(self, parts: list[Record], manifest: Record) -> None:
        hidden = ("identity", "stamp", "notes")
        shown = [{name: value for name, value in part.items() if name not in hidden} for part in parts]
        write_json(self.path / MANIFEST, manifest | {"job": self.job, "parts": shown})
        self.seal()

    def seal(self) -> bool:
        """Rename a directory whose manifest is written; False if it is not there yet, or of another job."""
        path = self.path / MANIFEST
        with contextlib.suppress(OctoError):
            if read_json(path).get("job") == self.job and not self.one_file:
                for record in self.path.glob("part-*.json"):
                    record.unlink()
                with contextlib.suppress(FileNotFoundError):
                    self.output.rmdir()
                os.replace(self.path, self.output)
                sync_directory(self.output.parent)
                return True
        path.unlink(missing_ok=True)
        return False

    def _join(self, parts: list[Record], manifest: Record) -> None:
        paths = [self.path / str(part["name"]) for part in parts]
        with atomic_write(self.output) as file:
            if self.suffix == ".parquet":
                from megatron_octo.commits.rows.arrow import join_files

                join_files(paths, file, self._columns)
            else:
                for path in paths:  # packed lines may be joined, too: readers take one frame after the other
                    with open(path, "rb") as part:
                        shutil.copyfileobj(part, file, 1 << 22)
            file.flush()
            digest, size = digest_file(file.name), Path(file.name).stat().st_size
            whole = {"name": self.output.name, "bytes": size, "digest": digest}
            # First: an output without its manifest would be taken for another job's.
            write_json(manifest_of(self.output), manifest | {"job": self.job, "parts": [whole]})
        shutil.rmtree(self.path, ignore_errors=True)
