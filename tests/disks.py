"""Real file systems for tests: where mounting is not allowed they are skipped."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Meanwhile something is mounted at ``place``: ``mount OPTIONS place``."""
    place.mkdir()
    command = ["mount", *options, str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def small_disk(place: Path, size: str) -> AbstractContextManager[Path]:
    """An empty file system of so many bytes (``500k``, ``2m``)."""
    return mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
