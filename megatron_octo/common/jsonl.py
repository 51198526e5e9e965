"""Records as lines of JSON, appended one at a time; a line that a power cut left unfinished costs only itself."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import regular
from megatron_octo.common.records import Report, checked, ignore

TAIL = 1 << 18  # bytes that hold the last some hundred steps
ANY: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def append(path: Path, record: dict[str, Any]) -> None:
    """Append a line so that it survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(regular(path), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        # Glued to the rest of an unfinished line, this one would be lost, too.
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        line = "\n" * torn + json.dumps(record, ensure_ascii=False) + "\n"
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read[T](path: Path, adapter: TypeAdapter[T], report: Report = ignore, *, tail: int | None = None) -> list[T]:
    """Read the complete lines of a file that may be growing; those that are not valid are counted and reported.

    Args:
        path: the file.
        adapter: type of a line.
        report: takes a line about what is passed over.
        tail: of a longer file read only so many bytes at its end.

    Returns:
        Nothing if there is no file or it cannot be read.
    """
    found, bad, first = [], 0, ""
    for line in _lines(path, tail, report):
        try:
            found.append(checked(adapter, line, path))
        except OctoError as error:
            bad, first = bad + 1, first or error.what
    if bad:
        report(f"{path}: {bad} line{'s' if bad > 1 else ''} passed over ({first})")
    return found


def _lines(path: Path, tail: int | None, report: Report) -> list[bytes]:
    try:
        with open(regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = size - tail if tail is not None and size > tail else 0
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return []
    except OSError as error:
        report(f"{path}: cannot be read: {error.strerror}")
        return []
    lines = data.split(b"\n")[1 if start else 0 : -1]  # the last one is being written
    return [line for line in lines if line.strip()]
