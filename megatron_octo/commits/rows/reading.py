"""Reading of rows: files of jsonl, plain or packed, and of parquet; folders that a stage wrote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from megatron_octo.commits.rows.row import Kind, Row
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, read_json
from megatron_octo.data.preprocessing.recognize import check_rows
from megatron_octo.data.preprocessing.sources import Input, Piece, open_input, pieces
from megatron_octo.data.preprocessing.tables import column_names
from megatron_octo.data.text.formats import RowError

MANIFEST = "stage.json"
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.bz2", ".jsonl.xz", ".jsonl.zst", ".parquet")
_PIECE = 64 << 20  # bytes of a file read in one go when nothing is shared out


def manifest_of(path: Path) -> Path:
    """Return where the manifest of a stage's output lies: inside a folder, beside a file."""
    return path / MANIFEST if path.is_dir() else path.with_name(f"{path.name}.{MANIFEST}")


def input_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the files that the inputs of a command stand for; a stage's folder stands for its parts, in order.

    Raises:
        OctoError: there is nothing, a folder without a manifest, or a part that is missing or has another size.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        if not (path / MANIFEST).is_file():
            raise OctoError(f"a folder without {MANIFEST}", where=path, hint="name a stage's output, or files of rows")
        for part in _parts(path):
            file = path / str(part.get("name"))
            size = file.stat().st_size if file.is_file() else None
            if size != part.get("bytes"):
                state = "is missing" if size is None else f"has {size:,} bytes, not {part.get('bytes'):,}"
                raise OctoError(f"this part of the folder {state}", where=file, hint="run its stage again")
            found.append(file)
    return found


def _parts(folder: Path) -> list[dict[str, Any]]:
    parts = read_json(folder / MANIFEST).get("parts")
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise OctoError("not the manifest of a stage: no list of parts", where=folder / MANIFEST)
    return parts


def open_rows(path: Path) -> Input:
    """Find out what kind of file of rows this is.

    Raises:
        OctoError: there is none, or something else.
    """
    source = open_input(str(path))
    if source.kind == "parquet":
        if "commit" not in (column_names("parquet", source.path) or []):
            raise OctoError("no column 'commit'", where=path, hint="these are no rows of commits")
    else:
        check_rows(source.path, source.packing)
    return source


def check_digest(source: Input) -> None:
    """Compare a part of a folder with the digest that its manifest names; other files pass.

    Raises:
        OctoError: it is damaged.
    """
    path = Path(source.path)
    if not (path.parent / MANIFEST).is_file():
        return
    wanted = next((part.get("digest") for part in _parts(path.parent) if part.get("name") == path.name), None)
    if wanted is not None and digest_file(path) != wanted:
        raise OctoError(f"damaged: its digest is not that of {MANIFEST}", where=path, hint="run its stage again")


def signal_kinds(source: Input) -> dict[str, Kind]:
    """Return the kinds of the signals of a parquet file by its schema; of other files nothing is known."""
    if source.kind != "parquet":
        return {}
    import pyarrow.parquet

    from megatron_octo.commits.rows.arrow import kinds_of_schema

    return kinds_of_schema(pyarrow.parquet.read_schema(source.path))


def piece_rows(piece: Piece, seen: Callable[[bytes], object] | None = None) -> Iterator[Row]:
    """Read the rows of a piece of a file; ``seen`` takes the bytes that they were made from.

    Raises:
        OctoError: a bad row; file and row are named.
    """
    source = piece.source
    columns = column_names("parquet", source.path) or [] if source.kind == "parquet" else []
    for rows in piece.rows(columns):
        if seen is not None:
            seen(rows.raw)
        for place, item in rows:
            try:
                yield Row.parse(_columns(item))
            except (ValueError, RecursionError) as error:
                raise OctoError(f"not a row of a commit: {error}", where=rows.where(place)) from None


def _columns(item: bytes | Mapping[str, Any] | RowError) -> Mapping[str, Any]:
    if isinstance(item, RowError):
        raise ValueError(str(item))
    columns = orjson.loads(item) if isinstance(item, bytes) else item
    if not isinstance(columns, Mapping):
        raise ValueError("no object")
    return columns


def read_rows(*paths: str | Path) -> Iterator[Row]:
    """Read all rows of files and of stages' folders, in order.

    Raises:
        OctoError: see :func:`input_files` and :func:`piece_rows`.
    """
    for path in input_files(paths):
        source = open_rows(path)
        check_digest(source)
        for piece in pieces([source], _PIECE):
            yield from piece_rows(piece)
