import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

from megatron_octo.commits.rows import Row, Writer, arrow, read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.rows.made import made_rows, write_rows

SUFFIXES = ("parquet", "jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "jsonl.zst")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back_and_the_bytes_are_the_same_each_time(tmp_path: Path, suffix: str) -> None:
    one, other = (write_rows(tmp_path / f"{name}.{suffix}", 50) for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert [row.published() for row in read_rows(one)] == [row.published() for row in made_rows(50)]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(RuntimeError), Writer(tmp_path / f"a.{suffix}") as writer:
            writer.write(Row("c"))
            raise RuntimeError
    with pytest.raises(OctoError, match=r"surrogates|parquet cannot hold"), Writer(tmp_path / "a.parquet") as writer:
        writer.write(Row("c", old_contents="\ud800"))
    with pytest.raises(OctoError), Writer(tmp_path / "a.jsonl") as writer:
        writer.write(Row("c", old_contents="\ud800"))
    with pytest.raises(OctoError, match="suffix names no format"), Writer(tmp_path / "a.csv"):
        pass
    assert not list(tmp_path.iterdir())


def test_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megatron_octo.commits.rows.writing.GROUP", 10_000)
    path = tmp_path / "a.parquet"
    with Writer(path) as writer:
        for number, size in enumerate((3000, 3000, 20_000, 3000, 0)):
            writer.write(Row(f"{number}", old_contents="é" * (size // 2)))
    file = pyarrow.parquet.ParquetFile(path)
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [2, 1, 2]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_no_rows_are_a_whole_file(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_rows(tmp_path / f"a.{suffix}", 0)
        assert list(read_rows(tmp_path / f"a.{suffix}")) == []


def test_dropped_rows_are_left_out_but_counted(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.jsonl", leave_out=True) as writer:
        writer.write(Row("a", new_contents="é"))
        writer.write(Row("b").mark("short"))
    assert [row.commit for row in read_rows(tmp_path / "a.jsonl")] == ["a"]
    assert (writer.tally.rows, writer.tally.kept, dict(writer.tally.dropped)) == (2, 1, {"short": 1})
    assert writer.tally.content_bytes == 2


def test_columns_of_mixed_kinds_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OctoError, match="column 'a': values of kind int and of kind text"),
        Writer(tmp_path / "a.parquet") as writer,
    ):
        writer.write(Row("a", signals={"a": 1}))
        writer.write(Row("b", signals={"a": "b"}))
    with pytest.raises(OctoError, match="parquet cannot hold"), Writer(tmp_path / "a.parquet", {"a": "int"}) as writer:
        writer.write(Row("a", signals={"a": "b"}))
    assert not list(tmp_path.iterdir())


def test_files_are_joined_over_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "GROUP", 1000)
    with Writer(tmp_path / "a.parquet") as writer:
        writer.write(Row("a", signals={"n": 1, "s": "x"}))
    with Writer(tmp_path / "b.parquet") as writer:
        writer.write(Row("b", old_contents="x" * 3000, signals={"n": 1.5}))
        writer.write(Row("c", signals={"n": None}))
    with open(tmp_path / "c.parquet", "wb") as file:
        arrow.join_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], file)
    assert [row.signals for row in read_rows(tmp_path / "c.parquet")] == [
        {"n": 1.0, "s": "x"},
        {"n": 1.5, "s": None},
        {"n": None, "s": None},
    ]
    assert pyarrow.parquet.ParquetFile(tmp_path / "c.parquet").num_row_groups > 1
    with Writer(tmp_path / "b.parquet") as writer:
        writer.write(Row("b", signals={"n": "x"}))
    with open(tmp_path / "c.parquet", "wb") as file, pytest.raises(OctoError, match="column 'n'"):
        arrow.join_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], file)


def test_an_error_at_the_end_says_nothing_else(tmp_path: Path) -> None:
    """pyarrow would close its writer once more when it is collected, and print a traceback."""
    code = (
        "import sys\nfrom megatron_octo.commits.rows import Row, Writer\n"
        "with Writer(sys.argv[1], {'tokens': 'int'}) as writer:\n"
        "    writer.write(Row('a', signals={'tokens': 'many'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1 and "Exception ignored" not in done.stderr
    assert not list(tmp_path.iterdir())
