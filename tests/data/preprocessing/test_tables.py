"""Parquet: only what is needed is read, page checksums are compared, a bad value is a bad row."""

import random
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.sources import Input, check_input, open_input, pieces
from megatron_octo.data.text.formats import RowError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, size: int = 300, **columns: Any) -> Path:
    table = arrow.table({"text": [f"row {i} hello return" for i in range(size)], **columns})
    parquet.write_table(
        table, path, compression="none", use_dictionary=False, write_page_checksum=True, row_group_size=100
    )
    return path


def rows(path: Path, columns: tuple[str, ...] = ("text",)) -> list[Any]:
    source: Input = open_input(str(path))
    check_input(source, [columns])
    found = [row for piece in pieces([source], 1) for block in piece.rows(columns) for row in block]
    assert [place for place, _ in found] == list(range(len(found)))
    return [row for _, row in found]


def test_only_the_needed_columns_are_read(tmp_path: Path) -> None:
    far = arrow.array([5 * 10**17] * 300, arrow.timestamp("us"))  # of no year that Python has
    found = rows(write(tmp_path / "a.parquet", date=far, text2=["x"] * 300))
    assert found[7] == {"text": "row 7 hello return"} and len(found) == 300


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    data[data.index(b"row 150 ") + 4] ^= 2
    path.write_bytes(data)
    with pytest.raises(OctoError, match="damaged parquet file") as caught:
        rows(path)
    assert str(path) in str(caught.value.where)


def test_a_value_that_cannot_be_read_is_a_bad_row(tmp_path: Path) -> None:
    raw = arrow.array([b"caf\xe9", b"ok", b"fine"], arrow.binary())
    latin = arrow.Array.from_buffers(arrow.string(), 3, raw.buffers())
    times = arrow.array([1, 5 * 10**17, 2], arrow.timestamp("us"))
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": latin, "time": times}), path)
    found = rows(path)
    assert isinstance(found[0], RowError) and found[0].reason == "invalid UTF-8" and "'text'" in str(found[0])
    assert [row["text"] for row in found[1:]] == ["ok", "fine"]
    reasons = [row.reason if isinstance(row, RowError) else None for row in rows(path, ("time",))]
    assert reasons == [None, "unreadable value", None]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    with pytest.raises(OctoError, match="no column 'inputs' or 'x'; it has 'text'") as caught:
        check_input(open_input(str(path)), [("text",), ("inputs", "x")])
    assert caught.value.where == str(path)


def test_damage_anywhere_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Pages carry checksums; in the rest of the file a flip may go unseen only if the rows stay as they were."""
    path = write(tmp_path / "a.parquet")
    data, good, generator = path.read_bytes(), rows(path), random.Random(1)
    seen = 0
    for number in range(60):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        other = tmp_path / f"{number}.parquet"
        other.write_bytes(changed)
        try:
            found = rows(other)
        except OctoError:
            seen += 1
            continue
        assert found == good, number
    assert seen > 30
