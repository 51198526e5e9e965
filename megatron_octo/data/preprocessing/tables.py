"""Rows of parquet files and of Hugging Face data sets."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import TableRows
from megatron_octo.data.text.formats import RowError

PREFIX = "hf:"  # of an input that names a Hugging Face data set
_ROWS = 256  # read in one go
_NAME = re.compile(r"(?P<name>[^,@]+)(,(?P<config>[^,@]+))?(@(?P<split>[^,@]+))?")


def is_saved_dataset(path: str) -> bool:
    """Return whether a directory was written by ``save_to_disk`` of the datasets library."""
    return Path(path, "dataset_dict.json").is_file() or Path(path, "state.json").is_file()


@contextlib.contextmanager
def _damage(path: str, place: int | None = None) -> Iterator[None]:
    """Turn the library's errors about a file's content into ours; those of the disk and of memory stay."""
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        OverflowError,
        TypeError,
    ) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        where = path if place is None else f"{path}, after row {place}"
        raise OctoError(f"damaged parquet file: {error}", where=where, hint="copy or download it again") from None


@functools.lru_cache(maxsize=8)
def _parquet(path: str) -> tuple[Any, list[str], list[tuple[int, int]]]:
    """Open a file; returns it, its columns, and rows and bytes of each row group."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise OctoError(
            "a parquet file needs the pyarrow library",
            where=path,
            hint="pip install 'megatron-octo[parquet]'",
        ) from None
    with _damage(path):
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        metadata = file.metadata
        found = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        groups = [(int(group.num_rows), int(group.total_byte_size)) for group in found]
        if sum(rows for rows, _ in groups) != metadata.num_rows or any(min(group) < 0 for group in groups):
            raise ValueError("its row groups do not hold the rows that it counts")
        return file, [str(name) for name in file.schema_arrow.names], groups


def parquet_groups(path: str) -> list[tuple[int, int]]:
    """Return rows and bytes of each row group."""
    return _parquet(path)[2]


def read_parquet(path: str, number: int, start: int, end: int, columns: Sequence[str]) -> Iterator[TableRows]:
    """Read ``columns`` of rows ``start`` .. ``end``, which are whole row groups."""
    file, names, groups = _parquet(path)
    first, wanted = 0, []
    for group, (rows, _) in enumerate(groups):
        if start <= first < end and rows:
            wanted.append(group)
        first += rows
    there = [name for name in columns if name in names]
    place = start
    batches = iter(file.iter_batches(_ROWS, row_groups=wanted, columns=there) if wanted and there else ())
    while True:
        with _damage(path, place):
            batch = next(batches, None)
            if batch is None:
                break
            batch = batch.select(there)
            raw = batch.serialize().to_pybytes()
        yield TableRows(path, number, place, _rows(batch), raw)
        place += batch.num_rows
    if place != end and there:
        raise OctoError(
            f"damaged parquet file: {place - start} rows where it counts {end - start}",
            where=f"{path}, after row {place}",
            hint="copy or download it again",
        )


def _rows(batch: Any) -> list[Mapping[str, Any] | RowError]:
    """Convert a batch of Arrow; a row with a value that Python cannot hold becomes an error."""
    try:
        rows: list[Mapping[str, Any] | RowError] = batch.to_pylist()
    except MemoryError:
        raise
    except Exception:  # bytes that are not UTF-8, times out of range: many kinds
        return [_row(batch, place) for place in range(batch.num_rows)]
    return rows


def _row(batch: Any, place: int) -> Mapping[str, Any] | RowError:
    row: dict[str, Any] = {}
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name)[place].as_py()
        except MemoryError:
            raise
        except Exception as error:
            reason = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else "unreadable value"
            return RowError(reason, f"the value of {name!r} cannot be read: {error}")
    return row


def column_names(kind: str, path: str) -> list[str] | None:
    """Return the columns of a table, None for an input without."""
    if kind == "parquet":
        return _parquet(path)[1]
    return [str(name) for name in open_dataset(path).column_names] if kind == "dataset" else None


@functools.lru_cache(maxsize=8)
def open_dataset(source: str) -> Any:
    """Open a Hugging Face data set: ``hf:NAME[,CONFIG][@SPLIT]``, where NAME may be a saved directory.

    Raises:
        OctoError: the library is missing, or there is no such data set or split.
    """
    try:
        import datasets
    except ImportError:
        raise OctoError(
            "this input needs the datasets library",
            where=source,
            hint="pip install 'megatron-octo[datasets]'",
        ) from None
    found = _NAME.fullmatch(source.removeprefix(PREFIX))
    if found is None:
        raise OctoError("not NAME, NAME,CONFIG or NAME@SPLIT", where=source)
    name, config, split = found["name"], found["config"], found["split"]
    datasets.disable_progress_bars()
    try:
        saved = is_saved_dataset(name)
        data = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, config)
    except Exception as error:  # the library and its transport have many kinds
        raise OctoError(f"cannot be loaded: {error}", where=source, hint="check name and network") from None
    if isinstance(data, dict):
        if split is None and len(data) > 1:
            raise OctoError(f"it has the splits {', '.join(data)}", where=source, hint=f"{source}@{next(iter(data))}")
        split = split or next(iter(data))
        if split not in data:
            raise OctoError(f"no split {split!r}; it has {', '.join(data)}", where=source)
        return data[split]
    return data


def read_dataset(source: str, number: int, start: int, end: int, columns: Sequence[str]) -> Iterator[TableRows]:
    """Read ``columns`` of rows ``start`` .. ``end``."""
    data = open_dataset(source)
    data = data.select_columns([name for name in columns if name in data.column_names])
    for place in range(start, end, _ROWS):
        stop = min(place + _ROWS, end)
        table = data.with_format("arrow")[place:stop]
        for batch in table.combine_chunks().to_batches():
            yield TableRows(source, number, place, _rows(batch), batch.serialize().to_pybytes())
            place += batch.num_rows
