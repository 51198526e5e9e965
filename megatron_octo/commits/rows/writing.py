"""Writing of one file of rows, jsonl or parquet by its name; complete or absent."""

import bz2
import contextlib
import gzip
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from megatron_octo.commits.rows.arrow import GROUP, schema_of, table_of, writer_of
from megatron_octo.commits.rows.row import COLUMNS, Item, Kind, join_kinds, kind_of
from megatron_octo.commits.rows.tally import Tally
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write

_ROW = 1 << 10  # counted for the other columns of a row


class Writer:
    """Writer of a file of rows; inside a ``with`` block.

    Args:
        path: its suffix decides: ``.parquet``, or ``.jsonl`` with ``.gz``, ``.bz2``, ``.xz`` or ``.zst``.
        signals: kinds of the signals' columns in parquet; those that are missing follow from the first rows.
        leave_out: whether dropped rows are counted, but not written.
        columns: those of text that every row has, in parquet.

    Attributes:
        tally: counts of the rows so far.
    """

    def __init__(
        self,
        path: str | Path,
        signals: Mapping[str, Kind] | None = None,
        *,
        leave_out: bool = False,
        columns: Sequence[str] = COLUMNS,
    ):
        self.path, self.leave_out, self.tally = Path(path), leave_out, Tally()
        self._stack = contextlib.ExitStack()
        self._signals, self._columns = dict(signals or {}), columns
        self._sink: _Parquet | _Lines | None = None

    def __enter__(self) -> Self:
        """Open the file under a temporary name."""
        if not str(self.path).endswith(".parquet"):
            _packer(self.path)  # a wrong name fails before anything is there
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self._stack.enter_context(atomic_write(self.path))
        if str(self.path).endswith(".parquet"):
            self._sink = _Parquet(file, self.path, self._signals, self._columns)
        else:
            self._sink = _Lines(file, self.path)
        return self

    def write(self, row: Item) -> None:
        """Add a row.

        Raises:
            OctoError: a signal's value has no column that could hold it.
        """
        assert self._sink is not None, "used outside of its block"
        self.tally.count(row)
        if row.drop is None or not self.leave_out:
            self._sink.write(row)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._sink is not None:
                self._sink.finish() if kind is None else self._sink.abandon()
        except BaseException as failure:
            if self._sink is not None:
                self._sink.abandon()
            self._stack.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._stack.__exit__(kind, error, trace)


def _packer(path: Path) -> Callable[[IO[bytes]], Any]:
    """Return what packs the lines of a file with this name.

    Raises:
        OctoError: the suffix is unknown, or the library is missing.
    """
    name = path.name
    if name.endswith(".jsonl"):
        return lambda file: file
    if name.endswith(".jsonl.gz"):
        return lambda file: gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="", compresslevel=6)
    if name.endswith(".jsonl.bz2"):
        return lambda file: bz2.BZ2File(file, "wb")
    if name.endswith(".jsonl.xz"):
        return lambda file: lzma.LZMAFile(file, "wb")
    if not name.endswith(".jsonl.zst"):
        hint = "end it with .parquet or .jsonl (.gz, .bz2, .xz, .zst), or give a folder's name without a suffix"
        raise OctoError("the suffix names no format of rows", where=path, hint=hint)
    try:
        import zstandard
    except ImportError:
        hint = "pip install 'megatron-octo[commits]'"
        raise OctoError("this output needs the zstandard library", where=path, hint=hint) from None
    return lambda file: zstandard.ZstdCompressor(3).stream_writer(file, closefd=False)


class _Lines:
    def __init__(self, file: IO[bytes], path: Path):
        self._path, self._plain = path, file
        self._file = _packer(path)(file)

    def write(self, row: Item) -> None:
        try:
            self._file.write(orjson.dumps(row.published(), option=orjson.OPT_APPEND_NEWLINE))
        except TypeError as error:
            raise OctoError(f"{row.name}: {error}", where=self._path) from None

    def finish(self) -> None:
        if self._file is not self._plain:
            self._file.close()

    def abandon(self) -> None:
        with contextlib.suppress(Exception):
            self.finish()


class _Parquet:
    """Row groups of at most :data:`GROUP` bytes of text; a larger row has one of its own."""

    def __init__(self, file: IO[bytes], path: Path, signals: dict[str, Kind], columns: Sequence[str]):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            hint = "pip install 'megatron-octo[commits]'"
            raise OctoError("this output needs the pyarrow library", where=path, hint=hint) from None
        self._file, self._path, self._signals, self._columns = file, path, signals, columns
        self._rows: list[Item] = []
        self._size = 0
        self._writer: Any = None

    def write(self, row: Item) -> None:
        size = row.size + _ROW
        if self._rows and self._size + size > GROUP:
            self._flush()
        self._rows.append(row)
        self._size += size

    def finish(self) -> None:
        if self._rows or self._writer is None:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        if self._writer is not None:  # it would close itself later, on a file that is closed by then
            with contextlib.suppress(Exception):
                self._writer.close()

    def _flush(self) -> None:
        import pyarrow

        self._learn()
        if self._writer is None:
            self._writer = writer_of(self._file, schema_of(self._signals, self._columns))
        try:
            table = table_of(self._rows, self._signals, self._columns)
        except (pyarrow.ArrowException, UnicodeError, OverflowError) as error:
            raise OctoError(f"a row that parquet cannot hold: {error}", where=self._path) from None
        self._writer.write_table(table, row_group_size=len(self._rows) or None)
        self._rows, self._size = [], 0

    def _learn(self) -> None:
        """Find the kinds of signals that were not declared, before the file's schema is fixed."""
        found: dict[str, Kind | None] = {}
        for row in self._rows:
            for name, value in row.signals.items():
                try:
                    if name not in self._signals:
                        found[name] = join_kinds(found.get(name), kind_of(value))
                except ValueError as error:
                    hint = "a column holds values of one kind; write jsonl, or leave the column out"
                    raise OctoError(f"column {name!r}: {error}", where=row.name, hint=hint) from None
        if self._writer is not None and (late := [name for name, kind in found.items() if kind is not None]):
            raise OctoError(f"the column {late[0]!r} begins after the first rows", where=self._path)
        if self._writer is None:
            self._signals.update((name, kind or "text") for name, kind in sorted(found.items()))
