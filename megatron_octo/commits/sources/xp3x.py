"""Rows drawn from the files of xP3x: which files, how many of each, what is replaced in them."""

import functools
import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import xxhash

from megatron_octo.commits.rows.reading import SUFFIXES
from megatron_octo.commits.sources.pair import Pair, content_digest
from megatron_octo.commits.sources.stage import read_made
from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import parse_yaml, read_text
from megatron_octo.data.preprocessing.sources import Input, pieces

TABLE = "xp3x.yaml"
_PIECE = 64 << 20
_SHOWN = 5  # missing files that an error names


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("megatron_octo.commits.sources").joinpath(TABLE).read_text(encoding="utf-8")
    return dict(parse_yaml(text, TABLE, fractions=False))


def counts() -> dict[str, int]:
    """Return OctoPack's files and how many rows of each it drew."""
    return dict(_table()["counts"])


def read_counts(path: Path) -> dict[str, int]:
    """Read a table of files and counts, below the key ``counts`` or alone.

    Raises:
        OctoError: it is another one.
    """
    found = parse_yaml(read_text(path), path, fractions=False)
    found = found.get("counts", found) if isinstance(found, Mapping) else found
    good = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
    if not good or not all(
        isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in found.values()
    ):
        raise OctoError("not a table of files and counts", where=path, hint="write lines as `name.jsonl: 50`")
    return dict(found)


def find_files(folder: Path, wanted: Mapping[str, int]) -> dict[str, Path]:
    """Find files by name anywhere below a folder, plain or packed.

    Raises:
        OctoError: some are missing, or there is more than one of a name.
    """
    if not folder.is_dir():
        raise OctoError("no such folder", where=folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = _plain_name(path.name)
        if name not in wanted or not path.is_file():
            continue
        if name in found:
            raise OctoError(f"two files of one name: {found[name]}", where=path, hint="remove one of them")
        found[name] = path
    if missing := sorted(set(wanted) - set(found)):
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        what = f"{len(missing)} of {len(wanted)} files are missing: {', '.join(missing[:_SHOWN])}{more}"
        raise OctoError(
            what, where=folder, hint="fetch them from the hub's Muennighoff/xP3x, or name yours by --counts"
        )
    return found


def _plain_name(name: str) -> str:
    for suffix in SUFFIXES:
        if name.endswith(f"{suffix}") and suffix.startswith(".jsonl."):
            return name.removesuffix(suffix) + ".jsonl"
    return name


@dataclass(frozen=True)
class Draw:
    """Rows to draw from one file."""

    name: str
    source: Input
    count: int
    seed: int
    label: str


@dataclass(frozen=True)
class Drawn:
    """A row and its place in the order of all."""

    key: bytes
    pair: Pair


@dataclass(frozen=True)
class Drawing:
    """What was drawn from one file, and how many rows it has."""

    seen: int
    rows: list[Drawn]


def draw(wanted: Draw) -> Drawing:
    """Draw rows without replacement: those of the smallest hash of seed, name of the file and content.

    Memory: the drawn rows.

    Raises:
        OctoError: the file has fewer rows, or a bad one.
    """
    state = f"{wanted.seed}/{wanted.name}/".encode()
    seen = 0

    def found() -> Any:
        nonlocal seen
        for piece in pieces([wanted.source], _PIECE):
            for pair in read_made(piece, _parse):
                seen += 1
                yield Drawn(xxhash.xxh3_128_digest(state + content_digest(pair.inputs, pair.outputs)), pair)

    chosen = heapq.nsmallest(wanted.count, found(), key=lambda each: each.key)
    if seen < wanted.count:
        what = f"{seen:,} rows, of which {wanted.count:,} are to be drawn"
        raise OctoError(what, where=wanted.source.path, hint="set a smaller number with --counts")
    return Drawing(seen, [replace(each, pair=_finished(each.pair, wanted)) for each in chosen])


def _parse(value: Any) -> Pair:
    if not isinstance(value, dict):
        raise ValueError("no object")
    return Pair.parse(value)


def _finished(pair: Pair, wanted: Draw) -> Pair:
    for each in _table()["replace"]:
        if each["part"] in wanted.name:
            pair.inputs = pair.inputs.replace(each["old"], each["new"])
    named = (each["lang"] for each in _table()["languages"] if each["part"] in wanted.name)
    pair.lang = pair.lang or next(named, None)
    pair.source, pair.signals = wanted.label, {"file": wanted.name}
    return pair
