"""Runs a planned conversion: it resumes after a kill, and its result appears complete or not at all."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.source import Source
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.conversion.engine.block_copy import Group, OpenSink, write_group
from megatron_octo.conversion.engine.partial import PartialOutput
from megatron_octo.conversion.engine.rounding import Rounding

SHARD_BYTES = 5_000_000_000
_RESERVE = 1 << 26  # bytes of a disk that small files may take
Progress = Callable[[int, int], None]
Finish = Callable[[Path, Mapping[str, FileRecord]], None]


def silent(done: int, total: int) -> None:
    """Show no progress."""


def convert(
    source: Source,
    output: str | Path,
    groups: Sequence[Group],
    open_sink: OpenSink,
    finish: Finish,
    *,
    options: Mapping[str, Any],
    kinds: tuple[str, ...] = ("weights",),
    progress: Progress = silent,
) -> Rounding:
    """Write ``groups`` into the directory ``output``.

    After a kill the same command goes on after the last complete group. ``finish`` writes the small files into the
    directory, given the records of the large ones; ``options`` is everything else that decides the output. Files of
    the source with tensors of ``kinds`` are compared with their digests. ``progress`` is called with bytes done and
    bytes in all.

    Returns:
        The differences that a change of dtype made.

    Raises:
        OctoError: ``output`` exists, the disk is too small, or the source is damaged: then nothing is left.
        OSError: for example, the disk is full: complete files wait for the next attempt.
    """
    job = job_of(source, groups, options, kinds)
    total = sum(file.size for group in groups for file in group)
    rounding, done = Rounding(), 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with PartialOutput(output, job) as partial:
        rounding = Rounding(**partial.note) if partial.note else rounding
        left = [group for group in groups if not all(file.name in partial.done for file in group)]
        done = total - sum(file.size for group in left for file in group)
        _check_space(partial.output.parent, total - done)
        try:
            source.check()
            for group in left:
                try:
                    partial.record(
                        write_group(source, partial.path, group, open_sink, rounding, advance),
                        rounding.to_json(),
                    )
                except OSError:
                    partial.remove([file.name for file in group])  # they would only fill the disk
                    raise
            source.finish(kinds)
            finish(partial.path, partial.done)
            partial.commit()
        except OctoError:
            partial.discard()
            raise
    return rounding


def job_of(
    source: Source, groups: Sequence[Group], options: Mapping[str, Any], kinds: tuple[str, ...] = ("weights",)
) -> dict[str, Any]:
    """Return everything that decides the output; equal jobs write equal files."""
    plan = [[asdict(file) for file in group] for group in groups]
    return {"source": source.identity(kinds), "plan": digest_json(_plain(plan)), "options": dict(options)}


def _plain(tree: Any) -> Any:
    """Turn dtypes and tuples into JSON values."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return tree if isinstance(tree, int | str) else str(tree)


def _check_space(directory: Path, size: int) -> None:
    free = shutil.disk_usage(directory).free
    if size + _RESERVE > free:
        raise OctoError(
            f"the result takes {(size + _RESERVE) / 1e9:.2f} GB, this disk has {free / 1e9:.2f} GB free",
            where=directory,
            hint="free some space or point the output elsewhere",
        )
