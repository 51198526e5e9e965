"""Recognition of input files by their content, so that no other kind of file passes for rows of jsonl."""

import re

import orjson

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.packed import Packing, find_packing, open_packed

_HEAD = 1 << 20  # bytes that are looked at
_BOM = b"\xef\xbb\xbf"
_NOT_ROWS = "give jsonl: one JSON object per line, plain or packed with gzip, bzip2, xz or zstd; or parquet"
# Beginnings of other kinds of files, what they are, and what to do.
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "fetch the content with git lfs pull",
    ),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PK\x05\x06", "an empty zip archive", _NOT_ROWS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (b"\x04\x22\x4d\x18", "packed with lz4", "unpack it"),
    (b"\x1f\x9d", "packed with compress (.Z)", "unpack it"),
    (b"\x5d\x00\x00", "packed with lzma", "unpack it, or pack it with xz"),
    (b"LZIP", "packed with lzip", "unpack it"),
    (b"\xff\x06\x00\x00sNaPpY", "packed with snappy", "unpack it"),
    (b"PARE", "an encrypted parquet file", "decrypt it"),
    (b"ARROW1", "an Arrow file", "save it as parquet, or give the directory of a saved data set"),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream",
        "give the directory of the saved data set, or save it as parquet",
    ),
    (b"ORC", "an ORC file", "save it as parquet"),
    (b"Obj\x01", "an Avro file", "save it as parquet"),
    (b"SQLite format 3", "an SQLite database", _NOT_ROWS),
    (b"\x89HDF", "an HDF5 file", _NOT_ROWS),
    (b"\x93NUMPY", "a numpy array", _NOT_ROWS),
    (b"%PDF", "a PDF document", _NOT_ROWS),
    (b"\x7fELF", "a program", _NOT_ROWS),
    (b"\xff\xfe\x00\x00", "text in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "convert it: iconv -f UTF-16 -t UTF-8"),
)


def check_rows(path: str, kind: Packing | None) -> None:
    """Refuse a file that is not jsonl, by its first megabyte.

    Raises:
        OctoError: it is another kind of file, which is named, or it is damaged from the start.
    """
    with open(path, "rb") as raw:
        read = open_packed(raw, kind, path) if kind else raw.read
        head, chunk = b"", read(_HEAD)
        while chunk:
            head += chunk
            chunk = read(_HEAD) if len(head) < _HEAD else b""
    found = _other_kind(head) or _no_rows(head, whole=len(head) < _HEAD)
    if found:
        packed = f"unpacked ({kind}), this is" if kind else "this is"
        raise OctoError(f"{packed} {found[0]}", where=path, hint=found[1])


def _other_kind(head: bytes) -> tuple[str, str] | None:
    for magic, what, hint in _KINDS:
        if head.startswith(magic):
            return what, hint
    if twice := find_packing(head):
        return f"packed again ({twice})", "unpack it once"
    if head[257:262] == b"ustar":
        return "a tar archive", "unpack it, and name the files in it"
    text = head.removeprefix(_BOM).lstrip()
    if text and not text.strip(b"\0 \t\r\n"):
        return "NUL bytes: the file is damaged", "copy or download it again"
    if re.match(rb'\{\0\s*\0?"|\0\{|\{\0\0\0', text):
        return "text in UTF-16 or UTF-32", "convert it: iconv -f UTF-16 -t UTF-8"
    if text.startswith(b"<"):
        page = re.match(rb"<(!doctype|html|head)", text, re.IGNORECASE)
        what = "HTML: a page, perhaps of a failed download" if page else "XML"
        return what, "download the file again, and look at it"
    return ("a pickle", _NOT_ROWS) if re.match(rb"\x80[\x02-\x05]", text) else None


def _no_rows(head: bytes, whole: bool) -> tuple[str, str] | None:
    """Find out what a text is of which not one line in the head is an object of JSON; None for jsonl."""
    text = head.removeprefix(_BOM)
    lines = [line for line in text.split(b"\n") if line.strip()]
    if not whole and len(lines) > 1:
        lines.pop()  # cut short
    first = lines[0].strip() if lines else b"{"
    if first != b"[" and (any(map(_is_object, lines)) or (not whole and first.startswith(b"{"))):
        return None
    if len(lines) == 1 and b"\r" in first:
        return "text whose lines end with CR alone", "convert it: tr '\\r' '\\n'"
    if first.startswith(b"["):
        return "a JSON array, not an object per line", "write one object per line: jq -c '.[]'"
    if first.startswith(b"{"):
        many = len(lines) > 1 and (first == b"{" or first.endswith((b"{", b",", b"[")))
        what = "JSON over many lines, not an object per line"
        return (what, "write one object per line: jq -c .") if many else None  # else: rows that are broken
    shown = first[:40].decode(errors="replace")
    return f"not jsonl: no line of its first megabyte is a JSON object; it begins {shown!r}", _NOT_ROWS


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
