"""Compares token files with the digests in their manifests, once per run for each file that stays the same.

``RUN/verified.json`` records which files were compared, and when. A later start trusts a file whose size, inode and
times (of its content, and of its inode, which no program can set) are as they were before it was read; it reads all
others. It does not see a disk that changes a byte by itself: ``inspect PREFIX --full`` reads everything again.
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_octo.common.errors import OctoError, users_mistake
from megatron_octo.common.files import read_json, write_json
from megatron_octo.data.dataset.manifest import check_tokens, read_manifest
from megatron_octo.model.platform.grid import Grid

RECORD = "verified.json"
_THREADS = 4  # per rank; several read a disk faster than one
_Entry = dict[str, Any]


def _identity(prefix: str) -> _Entry | None:
    """Return what tells whether a data set's tokens are the very file that was compared; None without a manifest."""
    manifest = read_manifest(prefix)
    if manifest is None:
        return None
    found = Path(f"{prefix}.bin").stat()
    return {
        "digest": manifest.outputs["bin"].digest,
        "bytes": found.st_size,
        "inode": found.st_ino,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


@dataclass
class Verified:
    """Token files of a run that were compared with their digests.

    Attributes:
        entries: by absolute prefix, what ``verified.json`` holds.
        text: one line for the log, empty if no data set has a manifest.
    """

    entries: dict[str, _Entry]
    text: str = ""

    def write(self, run: Path) -> None:
        """Write the record; on rank 0, once the run is open. Without one the files are read again."""
        with contextlib.suppress(OSError):
            if self.entries:
                write_json(run / RECORD, self.entries)


def _read(run: Path) -> dict[str, _Entry]:
    try:
        tree = read_json(run / RECORD)
    except (OctoError, OSError, RecursionError):  # none yet, or damaged: all files are read
        return {}
    return tree if isinstance(tree, dict) else {}


def verify_tokens(prefixes: set[str], run: Path, grid: Grid) -> Verified:
    """Compare the ``.bin`` files of data sets with their manifests, spread over ranks and threads. Collective.

    Args:
        prefixes: of the data sets.
        grid: all ranks.
        run: the run's directory, whose record tells what need not be read.

    Raises:
        OctoError: on all ranks; a file has changed since it was written, or cannot be read.
    """
    names = sorted({str(Path(prefix).absolute()) for prefix in prefixes})
    plan: list[Any] = [grid.main_first(lambda: _plan(names, run) if grid.is_main else None)]
    dist.broadcast_object_list(plan, src=0)
    known, due = plan[0]
    started = time.monotonic()
    mine = due[grid.rank :: grid.world]
    with ThreadPoolExecutor(_THREADS) as threads:
        problems = [problem for problem in threads.map(_check, [prefix for prefix, _ in mine]) if problem]
    everybodys: list[Any] = [None] * grid.world
    dist.all_gather_object(everybodys, problems)
    for problem in (problem for part in everybodys for problem in part):
        raise problem
    fresh = {prefix: {**entry, "verified": time.strftime("%FT%TZ", time.gmtime())} for prefix, entry in due}
    size = sum(entry["bytes"] for _, entry in due)
    parts = [f"{len(due)} compared with their digests ({size / 1e9:.3g} GB in {time.monotonic() - started:.0f} s)"]
    parts += [f"{len(known)} the same files as when they were compared ({RECORD})"] if known else []
    text = "token files: " + ", ".join(parts if due else parts[1:]) if due or known else ""
    return Verified({**known, **fresh}, text)


def _plan(names: list[str], run: Path) -> tuple[dict[str, _Entry], list[tuple[str, _Entry]]]:
    """Split data sets into those that are known, with their entries, and those to read, the largest first."""
    recorded, known, due = _read(run), {}, []
    for prefix in names:
        if (now := _identity(prefix)) is None:
            continue
        before = recorded.get(prefix)
        if isinstance(before, dict) and all(before.get(key) == value for key, value in now.items()):
            known[prefix] = before
        else:
            due.append((prefix, now))
    return known, sorted(due, key=lambda item: -item[1]["bytes"])


def _check(prefix: str) -> OctoError | None:
    try:
        check_tokens(prefix)
    except OctoError as error:
        return error
    except OSError as error:
        return users_mistake(error) or OctoError(f"cannot be read: {error}", where=f"{prefix}.bin")
    return None
