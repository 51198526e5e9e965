"""A stage's output written in one go, by stages that do not work part by part."""

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_octo.commits.rows.job import Job, describe
from megatron_octo.commits.rows.reading import MANIFEST, SUFFIXES, manifest_of
from megatron_octo.commits.rows.row import Item, Kind
from megatron_octo.commits.rows.tally import Tally
from megatron_octo.commits.rows.writing import Writer
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_directory, digest_file, write_json

PART = 256 << 20  # bytes of contents in a part


class FolderWriter:
    """Writer of a folder of parts, or of one file by its suffix, with the manifest; inside a ``with`` block.

    After an error nothing is left. What a kill leaves is not taken up: the stage starts anew.

    Args:
        output: the folder or file.
        job: the stage.
        inputs: identities of the inputs, for the manifest.
        signals: kinds of the signals' columns.
        rows_in: number of rows that came in, if they are others than those that are written.

    Attributes:
        tally: counts of the rows so far.
        facts: further entries of the manifest.
    """

    def __init__(
        self,
        output: str | Path,
        job: Job,
        *,
        inputs: Sequence[Mapping[str, Any]] = (),
        signals: Mapping[str, Kind] | None = None,
        rows_in: int | None = None,
    ):
        self.output, self.job, self.facts = Path(output), job, dict[str, Any]()
        self.rows_in, self.tally = rows_in, Tally()
        self._inputs, self._signals = list(inputs), signals
        self._stack = contextlib.ExitStack()
        self._one_file = self.output.name.endswith(SUFFIXES)
        self._parts: list[dict[str, Any]] = []
        self._writer: Writer | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        """Open the output under a temporary name.

        Raises:
            OctoError: the output exists, or its name has a suffix that names no format.
        """
        if self._one_file:
            if self.output.exists():
                hint = "remove it or choose another name"
                raise OctoError("the output exists already", where=self.output, hint=hint)
            self._writer = self._stack.enter_context(self._open(self.output))
        else:
            self._folder = self._stack.enter_context(atomic_directory(self.output))
        return self

    def _open(self, path: Path) -> Writer:
        return Writer(path, self._signals, leave_out=self.job.leave_out, columns=self.job.columns)

    def write(self, row: Item) -> None:
        """Add a row; a folder begins a new part where the last one is full."""
        if not self._one_file and (self._writer is None or self._writer.tally.content_bytes >= PART):
            self._close()
            path = self._folder / f"part-{len(self._parts):05d}.parquet"
            self._writer = self._stack.enter_context(self._open(path))
        assert self._writer is not None
        self._writer.write(row)

    def _close(self) -> None:
        """End the part that is open."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.__exit__(None, None, None)
        path = writer.path
        self.tally.add(writer.tally)
        facts = {"name": path.name, "bytes": path.stat().st_size, "digest": digest_file(path)}
        self._parts.append(facts | writer.tally.record())

    def _manifest(self) -> dict[str, Any]:
        rows_in = self.tally.rows if self.rows_in is None else self.rows_in
        record = describe(self.job, self.tally, Counter(), rows_in) | self.facts
        seconds = round(time.monotonic() - self._started, 3)
        return record | {"inputs": self._inputs, "seconds": seconds, "parts": self._parts}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self._close()
                write_json(manifest_of(self.output) if self._one_file else self._folder / MANIFEST, self._manifest())
            except BaseException as failure:
                self._stack.__exit__(type(failure), failure, failure.__traceback__)
                raise
        self._stack.__exit__(kind, error, trace)
