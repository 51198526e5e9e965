"""Rows as Arrow's tables: schema, conversion, kinds of columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from megatron_octo.commits.rows.row import COLUMNS, Item, Kind, join_kinds
from megatron_octo.common.errors import OctoError

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

GROUP = 64 << 20  # bytes of text in a row group
_DICTIONARY = ["lang", "license", "repos", "author", "committer", "drop"]
_STATISTICS = ["commit", "lang", "license", "date", "drop"]
_DROPPED = ("drop", "drop_why")


def _type(kind: Kind) -> "pyarrow.DataType":
    import pyarrow

    types = {
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "text": pyarrow.string(),
        "texts": pyarrow.list_(pyarrow.string()),
        "ints": pyarrow.list_(pyarrow.int64()),
    }
    return types[kind]


def schema_of(signals: Mapping[str, Kind], columns: Sequence[str] = COLUMNS) -> "pyarrow.Schema":
    """Return the schema of rows with these columns of text and these signals."""
    import pyarrow

    fields = [pyarrow.field(name, pyarrow.string()) for name in columns]
    fields += [pyarrow.field(name, _type(kind)) for name, kind in signals.items()]
    fields += [pyarrow.field(name, pyarrow.string()) for name in _DROPPED]
    return pyarrow.schema(fields)


def kinds_of_schema(schema: "pyarrow.Schema", columns: Sequence[str] = COLUMNS) -> dict[str, Kind]:
    """Return the kinds of a file's signals; columns of other types are left to their values."""
    from pyarrow import types

    found: dict[str, Kind] = {}
    for each in schema:
        inner = each.type.value_type if types.is_list(each.type) or types.is_large_list(each.type) else each.type
        listed = inner is not each.type
        kind: Kind | None = None
        if types.is_string(inner) or types.is_large_string(inner):
            kind = "texts" if listed else "text"
        elif types.is_integer(inner):
            kind = "ints" if listed else "int"
        elif not listed and types.is_boolean(inner):
            kind = "bool"
        elif not listed and types.is_floating(inner):
            kind = "float"
        if kind is not None and each.name not in columns and each.name not in _DROPPED:
            found[each.name] = kind
    return found


def table_of(rows: Sequence[Item], signals: Mapping[str, Kind], columns: Sequence[str] = COLUMNS) -> "pyarrow.Table":
    """Return rows as a table.

    Raises:
        pyarrow.ArrowException: a value does not fit its column.
    """
    import pyarrow

    schema = schema_of(signals, columns)
    arrays: list[Any] = []
    for each in schema:
        values = (
            [row.signals.get(each.name) for row in rows]
            if each.name in signals
            else [getattr(row, each.name) for row in rows]
        )
        arrays.append(pyarrow.array(values, each.type))
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def join_files(paths: Sequence[Path], file: IO[bytes], columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows of parquet files as one, in row groups of at most :data:`GROUP` bytes in memory.

    Raises:
        OctoError: a column has other kinds of values in another file.
    """
    import pyarrow
    import pyarrow.parquet

    kinds: dict[str, Kind] = {}
    for path in paths:
        for name, kind in kinds_of_schema(pyarrow.parquet.read_schema(path), columns).items():
            try:
                kinds[name] = join_kinds(kinds.get(name), kind) or kind
            except ValueError as error:
                raise OctoError(f"column {name!r}: {error}", where=path) from None
    schema = schema_of(kinds, columns)
    with writer_of(file, schema) as writer:
        held: list[pyarrow.Table] = []
        size = 0
        for path in paths:
            for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
                table = _aligned(pyarrow.Table.from_batches([batch]), schema)
                if held and size + table.nbytes > GROUP:
                    writer.write_table(pyarrow.concat_tables(held))
                    held, size = [], 0
                held.append(table)
                size += table.nbytes
        if held:
            writer.write_table(pyarrow.concat_tables(held))


def _aligned(table: "pyarrow.Table", schema: "pyarrow.Schema") -> "pyarrow.Table":
    import pyarrow

    columns = [
        table[each.name].cast(each.type) if each.name in table.column_names else pyarrow.nulls(len(table), each.type)
        for each in schema
    ]
    return pyarrow.Table.from_arrays(columns, schema=schema)


def writer_of(file: IO[bytes], schema: "pyarrow.Schema") -> "pyarrow.parquet.ParquetWriter":
    """Return a writer of parquet as all stages write it: zstd level 3, checksums of pages."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        use_dictionary=_DICTIONARY,
        write_statistics=_STATISTICS,
        write_page_checksum=True,
    )
