"""Files that are no jsonl are named, whatever they are called; rows that are bad one by one are not taken for them."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.sources import check_input, open_input

ROWS = [{"text": f"row {i}", "more": [i, {"a": "b"}]} for i in range(50)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def archive(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("a.jsonl", LINES)
    else:
        with tarfile.open(fileobj=file, mode=kind) as tar:
            about = tarfile.TarInfo("a.jsonl")
            about.size = len(LINES)
            tar.addfile(about, io.BytesIO(LINES.encode()))
    return file.getvalue()


OTHERS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer"),
    "zip": (archive("zip"), "a zip archive"),
    "tar": (archive("w"), "a tar archive"),
    "tar.gz": (archive("w:gz"), r"unpacked \(gzip\), this is a tar archive"),
    "gz.gz": (gzip.compress(gzip.compress(LINES.encode())), r"packed again \(gzip\)"),
    "pointer.bz2": (bz2.compress(b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "array": (json.dumps(ROWS).encode(), "a JSON array"),
    "array, indented": (json.dumps(ROWS, indent=1).encode(), "a JSON array"),
    "array, a row per line": (b"[\n" + ",\n".join(map(json.dumps, ROWS)).encode() + b"\n]\n", "a JSON array"),
    "array, packed": (lzma.compress(json.dumps(ROWS).encode()), r"unpacked \(xz\), this is a JSON array"),
    "array, large": (json.dumps(ROWS * 2000).encode(), "a JSON array"),
    "objects, indented": (json.dumps(ROWS[0], indent=2).encode() * 3, "JSON over many lines"),
    "HTML": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML: a page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "this is XML"),
    "UTF-16": (LINES.encode("utf-16"), "text in UTF-16"),
    "UTF-16, no mark": (LINES.encode("utf-16-le"), "text in UTF-16"),
    "UTF-16, big": (LINES.encode("utf-16-be"), "text in UTF-16"),
    "UTF-32": (LINES.encode("utf-32"), "text in UTF-32"),
    "CR": (LINES.replace("\n", "\r").encode(), "end with CR alone"),
    "NUL": (bytes(5000), "NUL bytes"),
    "CSV": (b"text,more\na,b\n", "not jsonl: .* it begins 'text,more'"),
    "pickle": (pickle.dumps(ROWS), "a pickle"),
    "database": (b"SQLite format 3\0" + bytes(100), "an SQLite database"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(50), "packed with lz4"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named(tmp_path: Path, name: str) -> None:
    data, says = OTHERS[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(OctoError, match=says) as caught:
        check_input(open_input(str(path)), [])
    assert caught.value.where == str(path) and caught.value.hint


GOOD = {
    "rows": LINES.encode(),
    "empty": b"",
    "blank lines": b"\n \n" + LINES.encode(),
    "byte order mark": b"\xef\xbb\xbf" + LINES.encode(),
    "CRLF": LINES.replace("\n", "\r\n").encode(),
    "bad rows first": b"oops\n[1]\n" + LINES.encode(),
    "an array first": b"[]\n" + LINES.encode(),
    "one broken row": b'{"text": "a\n',
    "only broken rows": b'{"text": \n{"text"\n',
    "a long row": b'{"text": "' + b"x" * (3 << 20) + b'"}\n',
    "a cut last row": LINES.encode()[:-5],
    "gzip": gzip.compress(LINES.encode()),
    "bzip2": bz2.compress(LINES.encode()),
    "xz": lzma.compress(LINES.encode()),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_are_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv.zip"  # names do not matter
    path.write_bytes(GOOD[name])
    check_input(open_input(str(path)), [])
