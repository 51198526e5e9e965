"""Part files, from which one rank makes the manifest of a checkpoint that several ranks wrote.

Until the checkpoint is committed, ``part-00003.json`` lies beside the files that rank 3 wrote:

    {"files": {name: {bytes, digest}}, "tensors": {kind: {name: {shape, dtype, fragments}}}}
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.directory import Entries, TensorEntry
from megatron_octo.common.files import read_json, write_json


def part_name(rank: int) -> str:
    """Return the name of a rank's part file."""
    return f"part-{rank:05d}.json"


def write_part(directory: Path, rank: int, files: Mapping[str, FileRecord], tensors: Entries) -> None:
    """Record what a rank wrote; its files must be complete and on the disk."""
    trees = {
        kind: {name: dataclasses.asdict(entry) for name, entry in entries.items()} for kind, entries in tensors.items()
    }
    write_json(directory / part_name(rank), {"files": dict(files), "tensors": trees})


def merge_parts(directory: Path, world: int) -> tuple[dict[str, FileRecord], Entries]:
    """Return everything that ``world`` ranks wrote, and remove the part files.

    Raises:
        OctoError: a part is missing or broken.
    """
    files: dict[str, FileRecord] = {}
    tensors: Entries = {}
    for rank in range(world):
        tree = read_json(directory / part_name(rank))
        files.update(tree["files"])
        for kind, entries in layout.entries_from_json(tree["tensors"]).items():
            merged = tensors.setdefault(kind, {})
            for name, entry in entries.items():
                before = merged[name].fragments if name in merged else ()
                merged[name] = TensorEntry(entry.shape, entry.dtype, before + entry.fragments)
    for rank in range(world):
        (directory / part_name(rank)).unlink()
    return files, tensors
