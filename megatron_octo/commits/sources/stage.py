"""Stages that turn files of others into pairs, piece by piece over processes, resumable after a kill.

Memory: a piece of a file, of at most 64 MB, for each process.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

from megatron_octo.commits.rows import Job, Kind, Task, input_files, run_tasks
from megatron_octo.commits.rows.job import known_inputs
from megatron_octo.commits.rows.reading import check_digest
from megatron_octo.commits.rows.stage import Write
from megatron_octo.commits.sources.pair import COLUMNS, Pair
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import DIGEST_NAME
from megatron_octo.data.preprocessing.recognize import check_rows
from megatron_octo.data.preprocessing.sources import Input, Piece, open_input, piece_size, pieces
from megatron_octo.data.preprocessing.tables import column_names
from megatron_octo.data.text.formats import RowError

type Make = Callable[[Any], Pair]


def open_inputs(paths: Sequence[str | Path], *, lists: bool = False) -> list[Input]:
    """Find out what kinds of files these are; a folder of a stage stands for its parts.

    Args:
        paths: files and folders.
        lists: whether lines may hold lists, too, and not only objects.

    Raises:
        OctoError: there is none, or something else.
    """
    sources = [open_input(str(path)) for path in input_files(paths)]
    for source in sources:
        if source.kind != "parquet" and not lists:
            check_rows(source.path, source.packing)
    return sources


def read_values(piece: Piece, seen: Callable[[bytes], object] | None = None) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Read the JSON values of a piece, each with a function that names its place; ``seen`` takes the bytes.

    Raises:
        OctoError: a line is not JSON.
    """
    source = piece.source
    if piece.start == 0:
        check_digest(source)
    for rows in piece.rows(column_names("parquet", source.path) or [] if source.kind == "parquet" else []):
        if seen is not None:
            seen(rows.raw)
        for place, item in rows:

            def where(rows: Any = rows, place: int = place) -> str:
                return str(rows.where(place))

            if isinstance(item, RowError):
                raise OctoError(str(item), where=where())
            try:
                value = orjson.loads(item) if isinstance(item, bytes) else item
            except (ValueError, RecursionError) as error:
                raise OctoError(f"not JSON: {error}", where=where()) from None
            yield value, where


def read_made(piece: Piece, make: Make, seen: Callable[[bytes], object] | None = None) -> Iterator[Pair]:
    """Make a pair of each value of a piece.

    Raises:
        OctoError: a bad row; file and line are named.
    """
    for value, where in read_values(piece, seen):
        yield made_of(value, make, where)


def made_of(value: Any, make: Make, where: Callable[[], str]) -> Pair:
    """Make a pair of a value.

    Raises:
        OctoError: it is none; ``where`` names its place.
    """
    try:
        return make(value)
    except (ValueError, RecursionError) as error:
        raise OctoError(f"a row that makes no pair: {error}", where=where()) from None


@dataclass(frozen=True)
class _Convert[S]:
    """The work on a piece."""

    maker: Callable[[S], Make]
    settings: S
    piece: Piece

    def __call__(self, write: Write) -> dict[str, Any]:
        state, count, languages, before = xxhash.xxh3_128(), 0, Counter[str](), Counter[str]()
        make = self.maker(self.settings)
        for value, where in read_values(self.piece, state.update):
            pair = made_of(value, make, where)
            count += 1
            if isinstance(value, Mapping) and (earlier := value.get("drop")):
                before[str(earlier)] += 1
            if pair.drop is None and pair.lang:
                languages[pair.lang] += 1
            write(pair)
        return {
            "rows_in": count,
            "dropped_before": dict(sorted(before.items())),
            "counts": {"languages": languages},
            "digest_in": f"{DIGEST_NAME}:{state.hexdigest()}",
            "stamp": self.piece.source.stamp,
        }

    def fits(self, record: dict[str, Any]) -> bool:
        """Return whether the input is untouched since; else its bytes decide."""
        if self.piece.source.stamp and record.get("stamp") == self.piece.source.stamp:
            return True
        state = xxhash.xxh3_128()
        for _ in read_values(self.piece, state.update):
            pass
        return bool(record["digest_in"] == f"{DIGEST_NAME}:{state.hexdigest()}")


def run_pairs[S](
    name: str,
    sources: Sequence[Input],
    output: str | Path,
    maker: Callable[[S], Make],
    settings: S,
    *,
    jobs: int = 1,
    signals: Mapping[str, Kind] | None = None,
    leave_out: bool = False,
) -> dict[str, Any]:
    """Make pairs of the values in files, in their order, one of each.

    Args:
        name: of the stage.
        sources: the files.
        output: a folder, or a file by its suffix.
        maker: takes the settings and returns what makes a pair of a value, or raises ValueError; a function of a
            module, since it travels to processes.
        settings: what the output follows from.
        jobs: number of processes.
        signals: kinds of the columns that the pairs have beside those of all.
        leave_out: leave dropped rows out of the output; they are counted all the same.

    Returns:
        The manifest; ``counts.languages`` are those of the pairs that were kept.

    Raises:
        OctoError: a bad row, or another output is there.
    """

    def tasks() -> Iterator[Task]:
        for piece in pieces(sources, piece_size(sources)):
            identity = {"path": piece.source.path, "identity": piece.source.identity, "rows": [piece.start, piece.end]}
            made = _Convert(maker, settings, piece)
            yield Task(identity, made, piece.disk, signals or {}, made.fits)

    job = Job(name, settings, leave_out, COLUMNS)
    total = sum(source.size for source in sources)
    return run_tasks(job, tasks(), output, inputs=known_inputs(sources), total=total, jobs=jobs)


def languages_said(manifest: Mapping[str, Any]) -> str:
    """Return the line that names the languages of the pairs that were kept."""
    counts = manifest.get("counts", {}).get("languages", {})
    return "languages: " + (", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none found")
