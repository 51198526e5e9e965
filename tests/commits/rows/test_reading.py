import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megatron_octo.commits.rows import PUBLISHED, input_files, read_rows, run_stage
from megatron_octo.common.errors import OctoError
from tests.commits.rows.made import halve, write_rows
from tests.places import SHARED


def test_bad_rows_are_named_by_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for line, what in (
        ('{"commit": 3}', "column 'commit' holds int"),
        ('{"old_file": "a"}', "no column 'commit'"),
        ('{"commit": "c", "subject": "\\ud800"}', "surrogate"),
        ("{", "unexpected end"),
        ("[]", "no object"),
    ):
        path.write_text('{"commit": "a"}\n\n' + line + "\n")
        with pytest.raises(OctoError, match="not a row of a commit") as stop:
            list(read_rows(path))
        assert what in stop.value.what and str(stop.value.where) == f"{path}:3"
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(OctoError) as stop:
        list(read_rows(packed))
    assert str(stop.value.where) == f"{packed}:3"


def test_bad_rows_of_parquet_are_named_by_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"commit": ["a", None, "b"]}), path)
    with pytest.raises(OctoError, match="no column 'commit' with an id") as stop:
        list(read_rows(path))
    assert str(stop.value.where) == f"{path}, row 1 (from 0)"
    pyarrow.parquet.write_table(pyarrow.table({"a": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(OctoError, match="no column 'commit'"):
        list(read_rows(tmp_path / "other.parquet"))


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.jsonl").write_text("<!doctype html>")
    for path, what in (
        (tmp_path / "absent.jsonl", "no such file"),
        (tmp_path / "page.jsonl", "HTML"),
        (tmp_path, "a folder without stage.json"),
    ):
        with pytest.raises(OctoError, match=what):
            list(read_rows(path))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 30)
    out = tmp_path / "out"
    run_stage("halve", [tmp_path / "rows.jsonl"], out, halve)
    part = out / "part-00000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:50] + bytes([whole[50] ^ 1]) + whole[51:])
    with pytest.raises(OctoError, match="its digest is not that"):
        list(read_rows(out))
    with pytest.raises(OctoError, match="its digest is not that"):
        run_stage("halve", [out], tmp_path / "next", halve)
    assert not (tmp_path / "next").exists()
    part.write_bytes(whole[:-1])
    with pytest.raises(OctoError, match=r"has .* bytes, not"):
        input_files([out])
    part.unlink()
    with pytest.raises(OctoError, match="is missing"):
        input_files([out])
    (out / "stage.json").write_text(json.dumps({"parts": 3}))
    with pytest.raises(OctoError, match="not the manifest of a stage"):
        input_files([out])


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "commits.jsonl.gz").is_file(), reason="../shared/data is not here")
def test_real_rows_keep_every_column(tmp_path: Path) -> None:
    path = SHARED / "commits.jsonl.gz"
    with gzip.open(path) as file:
        wanted = [json.loads(line) for line in file]
    found = [{name: getattr(row, name) for name in PUBLISHED} for row in read_rows(path)]
    assert found == [{name: row[name] for name in PUBLISHED} for row in wanted]
