"""Rows of parquet files and of Hugging Face data sets."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.input_rows import TableRows

PREFIX = "hf:"  # of an input that names a Hugging Face data set
_ROWS = 256  # read in one go
_NAME = re.compile(r"(?P<name>[^,@]+)(,(?P<config>[^,@]+))?(@(?P<split>[^,@]+))?")


def is_parquet(path: str) -> bool:
    """Return whether a file begins as parquet does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def is_saved_dataset(path: str) -> bool:
    """Return whether a directory was written by ``save_to_disk`` of the datasets library."""
    return Path(path, "dataset_dict.json").is_file() or Path(path, "state.json").is_file()


@functools.lru_cache(maxsize=8)
def _parquet(path: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise OctoError(
            "a parquet file needs the pyarrow library",
            where=path,
            hint="pip install 'megatron-octo[parquet]'",
        ) from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise OctoError(
            f"damaged parquet file: {error}", where=path, hint="copy or download it again"
        ) from None


def parquet_groups(path: str) -> list[tuple[int, int]]:
    """Return rows and bytes of each row group."""
    metadata = _parquet(path).metadata
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


def read_parquet(path: str, number: int, start: int, end: int) -> Iterator[TableRows]:
    """Read rows ``start`` .. ``end``, which are whole row groups."""
    first, wanted = 0, []
    for group, (rows, _) in enumerate(parquet_groups(path)):
        if start <= first < end:
            wanted.append(group)
        first += rows
    place = start
    try:
        for batch in _parquet(path).iter_batches(_ROWS, row_groups=wanted) if wanted else ():
            rows = batch.to_pylist()
            yield TableRows(path, number, place, rows)
            place += len(rows)
    except OSError as error:
        raise OctoError(
            f"damaged parquet file: {error}",
            where=f"{path}, after row {place}",
            hint="copy or download it again",
        ) from None


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
            raise OctoError(
                f"it has the splits {', '.join(data)}", where=source, hint=f"{source}@{next(iter(data))}"
            )
        split = split or next(iter(data))
        if split not in data:
            raise OctoError(f"no split {split!r}; it has {', '.join(data)}", where=source)
        return data[split]
    return data


def read_dataset(source: str, number: int, start: int, end: int) -> Iterator[TableRows]:
    """Read rows ``start`` .. ``end``."""
    data = open_dataset(source)
    for place in range(start, end, _ROWS):
        columns = data[place : min(place + _ROWS, end)]
        rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
        yield TableRows(source, number, place, rows)
