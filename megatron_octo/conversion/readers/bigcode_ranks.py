"""Files of a BigCode checkpoint, one per rank: which ones must exist, and what each holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint.tensor_file import Stored
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.torch_zip import TorchFile
from megatron_octo.conversion.readers.bigcode_names import FILES, flatten
from megatron_octo.conversion.readers.formats import RANK, TRACKER

_SIZES = ("tensor_model_parallel_size", "pipeline_model_parallel_size")  # among the arguments


@dataclass(frozen=True)
class Rank:
    """One file: its name in the directory, the places of its tensors by dotted path, and its arguments."""

    file: str
    tensors: dict[str, Stored]
    arguments: Mapping[str, Any]


def iteration_directory(directory: Path) -> Path:
    """Return the directory with the ranks.

    Raises:
        OctoError: what the tracker names is not there.
    """
    if not (directory / TRACKER).is_file():
        return directory
    name = (directory / TRACKER).read_text(encoding="utf-8", errors="replace").strip()
    found = directory / (f"iter_{int(name):07d}" if name.isdecimal() else "release")
    if name != "release" and not name.isdecimal():
        raise OctoError(f"neither an iteration nor 'release': {name[:40]!r}", where=directory / TRACKER)
    if not found.is_dir():
        raise OctoError(f"{TRACKER} names {found.name}, which is not there", where=directory)
    return found


def read_ranks(directory: Path) -> list[list[Rank]]:
    """Read what the files hold, by tensor rank and pipeline stage.

    Raises:
        OctoError: a rank is missing or damaged, or their number is not the one in the first rank's arguments.
    """
    files = _files(directory)
    there = tuple(1 + max(rank[axis] for rank in files) for axis in (0, 1))
    first = read_rank(directory, files[0, 0]) if (0, 0) in files else None
    said = _said_sizes(first, there)
    sizes = tuple(map(max, there, said))
    count, stages = sizes[0] * sizes[1], sizes[1]
    if len(files) < count:
        t, p = next((t, p) for t in range(sizes[0]) for p in range(stages) if (t, p) not in files)
        raise OctoError(
            f"{count - len(files)} of {count} ranks are missing, the first is tensor rank {t} of stage {p} "
            f"(mp_rank_{t:02d}{f'_{p:03d}' if stages > 1 else ''})",
            where=directory,
        )
    if said != there:
        raise OctoError(
            f"its arguments say tensor {said[0]} x pipeline {said[1]}, here are {there[0]} x {there[1]} ranks",
            where=directory,
            hint="files of another checkpoint may be among them",
        )
    return [
        [first if first and (t, p) == (0, 0) else read_rank(directory, files[t, p]) for p in range(sizes[1])]
        for t in range(sizes[0])
    ]


def _files(directory: Path) -> dict[tuple[int, int], str]:
    """Return file names by tensor rank and stage."""
    found: dict[tuple[int, int], str] = {}
    for path in directory.glob("mp_rank_*"):
        match = RANK.match(path.name)
        file = next((name for name in FILES if (path / name).is_file()), None)
        if match and file:
            found[int(match[1]), int(match[2] or 0)] = f"{path.name}/{file}"
    if not found:
        raise OctoError(f"no mp_rank_XX/{FILES[0]} here", where=directory)
    return found


def _said_sizes(first: Rank | None, there: tuple[int, ...]) -> tuple[int, ...]:
    """Return the recorded numbers of ranks and stages: missing last ones leave no gap in the names."""
    said = [first.arguments.get(key) if first else None for key in _SIZES]
    return tuple(size if type(size) is int and size > 0 else found for size, found in zip(said, there, strict=True))


def read_rank(directory: Path, name: str) -> Rank:
    """Read one rank's file.

    Raises:
        OctoError: the file is damaged, or no Megatron checkpoint.
    """
    file = TorchFile(directory / name)
    tree = file.tree
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise OctoError("no Megatron checkpoint: it has no 'model'", where=directory / name)
    try:
        leaves = flatten(tree["model"])
    except RecursionError:
        raise OctoError("no Megatron checkpoint: 'model' holds itself, or too much", where=directory / name) from None
    found = {
        key.replace("language_model.transformer.", "language_model.encoder."): value for key, value in leaves.items()
    }
    placed = {key: file.place(key, value) for key, value in found.items()}
    tensors = {key: place for key, place in placed.items() if place is not None}
    arguments = tree.get("args")
    return Rank(name, tensors, arguments if isinstance(arguments, dict) else getattr(arguments, "__dict__", {}))
