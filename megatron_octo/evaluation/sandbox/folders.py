"""Folders of one run, named after their process, so that those of killed processes are found and removed."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_NAME = re.compile(r"^octo-\w+-(\d+)-|^octo-(\d+)-\d+$")


def make_folder(kind: str) -> Path:
    """Make an empty folder in the directory for temporary files."""
    return Path(tempfile.mkdtemp(prefix=f"octo-{kind}-{os.getpid()}-"))


def sweep() -> None:
    """Remove folders that killed processes left in the directory for temporary files."""
    remove_orphans(Path(tempfile.gettempdir()).glob("octo-*-*-*"), lambda path: shutil.rmtree(path, ignore_errors=True))


def remove_orphans(paths: Iterable[Path], remove: Callable[[Path], None]) -> None:
    """Remove those of ``paths`` whose process has ended."""
    for path in paths:
        found = _NAME.match(path.name)
        if found and not Path(f"/proc/{found[1] or found[2]}").exists():
            with contextlib.suppress(OSError):
                remove(path)
