"""``to-hf --renew``: keeps an export of a run's newest checkpoint and replaces one of another checkpoint.

The old export keeps its name until the new one is complete: that is made beside it, as ``OUT.new``.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint.directory import MANIFEST, find_checkpoint
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json, write_json
from megatron_octo.conversion.engine.conversion_record import RECORD

_ORIGIN = "origin"  # key of conversion.json: checkpoint and options of the export


def renew(source: str | Path, output: Path, make: Callable[[Path], None], asked: Mapping[str, Any]) -> bool:
    """Make ``output`` an export of the newest checkpoint of ``source``, unless it is one.

    After a kill at any moment the same call goes on.

    ``make`` writes an export into a new directory; ``asked`` are its options: an export with others is replaced.

    Returns:
        Whether an export was written.

    Raises:
        OctoError: ``source`` is not a run or checkpoint of ours, or ``output`` is not an export.
    """
    checkpoint = find_checkpoint(source)
    # Not the step: a run that was rolled back comes to the same step again, with other weights.
    origin = {"checkpoint": read_json(checkpoint / MANIFEST)["digest"], **asked}
    new, old = (output.with_name(f"{output.name}.{which}") for which in ("new", "old"))
    if _origin_of(output) == origin:
        _remove(new, old)
        return False
    if output.exists() and any(output.iterdir()) and not (output / RECORD).is_file():
        raise OctoError(
            "the output exists already, and is not an export that could be replaced",
            where=output,
            hint="remove it or choose another name",
        )
    if _origin_of(new) != origin:
        _remove(new)
        make(new)
        record = read_json(new / RECORD) if (new / RECORD).is_file() else {}
        write_json(new / RECORD, {**record, _ORIGIN: origin})
    _remove(old)
    if output.exists():
        output.rename(old)
    new.rename(output)
    _remove(old)
    return True


def _origin_of(export: Path) -> Any:
    try:
        return read_json(export / RECORD).get(_ORIGIN)
    except OctoError:
        return None


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
