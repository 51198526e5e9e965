"""Records as lines of JSON, one line appended at a time; a line that a power cut left unfinished costs only itself."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a line that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        # Glued to the rest of an unfinished line, this one would be lost, too.
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        line = "\n" * torn + json.dumps(record, ensure_ascii=False) + "\n"
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """All records that are whole; none if there is no file."""
    return parse(path.read_bytes().split(b"\n")) if path.is_file() else []


def parse(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The records of those lines that are whole."""
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            continue
        if isinstance(record, dict):
            found.append(record)
    return found
