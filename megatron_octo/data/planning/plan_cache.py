"""Plans on disk: written aside, renamed, verified when opened, memory-mapped. One process makes each."""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json, read_json, remove_any, sync_directory
from megatron_octo.data.planning.build_once import make_once
from megatron_octo.data.planning.row_plan import Plan
from megatron_octo.data.planning.windows import PIECE

_PARTS = ("order", "offsets", "cuts", "weights")


def plan_directory(cache_dir: Path, key: dict[str, Any]) -> Path:
    """Return the directory of the plan of ``key``."""
    return cache_dir / digest_json(key).rpartition(":")[2]


def write_plan(plan: Plan, directory: Path, key: dict[str, Any]) -> None:
    """Write a plan as ``directory``, and remove partial copies left by killed writers.

    If another process was faster, its equal plan stays.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Processes of other hosts may write here, too: a process id would be no unique name.
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        aside.chmod(0o755)
        for name in _PARTS:
            with open(aside / f"{name}.npy", "wb") as file:
                np.save(file, getattr(plan, name), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        about = {
            "key": key,
            "summary": plan.summary,
            "bases": plan.bases.tolist(),
            "digests": {name: digest_file(aside / f"{name}.npy") for name in _PARTS},
        }
        with open(aside / "plan.json", "w", encoding="utf-8") as text:
            json.dump({**about, "digest": digest_json(about)}, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        aside.rename(directory)
    except OSError:  # the faster one has removed this one's files, too
        if not (directory / "plan.json").exists():
            raise
    else:
        sync_directory(directory.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already, if it was renamed
    for left in directory.parent.glob(f".{directory.name}.*/"):
        shutil.rmtree(left, ignore_errors=True)


def remove_plan(directory: Path) -> None:
    """Remove a plan if it is there; a kill in the middle leaves nothing that looks like one."""
    doomed = directory.with_name(f".{directory.name}.removed")
    with contextlib.suppress(FileNotFoundError):
        directory.rename(doomed)
    remove_any(doomed)


def read_plan(directory: Path, key: dict[str, Any]) -> Plan:
    """Memory-map the plan written for ``key``; every byte is compared with its digest.

    Raises:
        OctoError: it is damaged or another one; names the file.
    """
    where = directory / "plan.json"
    try:
        about = read_json(where)
        digest = about.pop("digest")
        if digest != digest_json(about):
            raise ValueError("a byte of it was changed")
        if about["key"] != key:
            raise ValueError("it is of other data or rules")
        parts = {}
        for name in _PARTS:
            where = directory / f"{name}.npy"
            if digest_file(where) != about["digests"][name]:
                raise ValueError("cut short, or a byte of it was changed")
            parts[name] = np.load(where, mmap_mode="r", allow_pickle=False)
            if not isinstance(parts[name], np.ndarray):
                raise ValueError("an archive, no array")
        if parts["cuts"].dtype != PIECE or parts["offsets"][-1] != len(parts["order"]):
            raise ValueError("its parts do not fit together")
    except (OctoError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        what = error.what if isinstance(error, OctoError) else str(error)
        raise OctoError(
            f"damaged packing plan: {where.name}: {what}",
            where=directory,
            hint="remove this directory; it will be made again",
        ) from None
    return Plan(**parts, bases=np.array(about["bases"], np.int64), summary=about["summary"])


def cached_plan(cache_dir: Path, key: dict[str, Any], build: Callable[[], Plan]) -> Plan:
    """Return the plan of ``key``, memory-mapped, from the cache or built and stored there.

    A damaged one is reported and built again: a plan follows from its key.

    Raises:
        OctoError: it is damaged even after that.
    """
    directory = plan_directory(cache_dir, key)
    make_once(directory, lambda: write_plan(build(), directory, key))
    try:
        return read_plan(directory, key)
    except OctoError as error:
        print(f"warning: {error.what}; planning again\n  where: {directory}", file=sys.stderr, flush=True)
    remove_plan(directory)
    make_once(directory, lambda: write_plan(build(), directory, key))
    return read_plan(directory, key)
