"""Stages of a chain by their manifests: counts that follow from each other, and which outputs have to be read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from megatron_octo.commits.rows.reading import manifest_of
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json


@dataclass(frozen=True)
class Hit:
    """A row in which a stage found texts of benchmarks: its commit, its file, and where the texts are from."""

    commit: str
    file: str
    found: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """A stage by its manifest.

    Attributes:
        name: of the command.
        path: of the output.
        rows_in: rows that came in, those that were dropped before among them.
        kept: rows that no stage dropped so far.
        dropped: rows that this stage dropped, by rule.
        all_dropped: rows that it or a stage before dropped, by rule, of those that came in.
        left_out: whether the output holds no dropped rows.
        hits: what its manifest lists of texts of benchmarks.
        cpu_seconds: of the work.
        settings: its settings.
    """

    name: str
    path: Path
    rows_in: int
    kept: int
    dropped: dict[str, int]
    all_dropped: dict[str, int]
    left_out: bool
    hits: tuple[Hit, ...]
    cpu_seconds: float
    settings: Mapping[str, Any]

    @property
    def before(self) -> int:
        """Rows that no stage before dropped."""
        return self.kept + sum(self.dropped.values())

    @property
    def written(self) -> int:
        """Rows of the output."""
        return self.kept if self.left_out else self.kept + sum(self.all_dropped.values())

    @property
    def clear(self) -> bool:
        """Whether each dropped row of the output tells by its rule that this stage dropped it."""
        return not self.left_out and all(self.all_dropped.get(rule) == count for rule, count in self.dropped.items())


@dataclass(frozen=True)
class Span:
    """Stages whose counts follow from one output, that of the last: no row was left out behind the first."""

    first: int
    last: int


def read_stage(path: Path) -> Stage:
    """Read the manifest of a stage's output.

    Raises:
        OctoError: there is none, it is damaged, or its counts do not add up.
    """
    place = manifest_of(path)
    if not place.is_file():
        raise OctoError("no manifest of a stage", where=place, hint="name the outputs of stages, in order")
    found = read_json(place)
    try:
        stage = Stage(
            str(found["stage"]),
            path,
            int(found["rows_in"]),
            int(found["kept"]),
            _counts(found["dropped_here"]),
            _counts(found["dropped"]),
            bool(found["leave_out"]),
            tuple(map(_hit, found.get("notes", ()))) if found["stage"] == "decontaminate" else (),
            float(found.get("cpu_seconds", 0.0)),
            dict(found.get("settings") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OctoError(f"not the manifest of a stage: {type(error).__name__}: {error}", where=place) from None
    more = any(count > stage.all_dropped.get(rule, 0) for rule, count in stage.dropped.items())
    if more or min(stage.kept, *stage.dropped.values(), *stage.all_dropped.values(), 0) < 0:
        raise OctoError("the counts of this manifest do not add up", where=place, hint="run the stage again")
    return stage


def _counts(found: Mapping[str, Any]) -> dict[str, int]:
    return {str(rule): int(count) for rule, count in found.items()}


def _hit(note: Mapping[str, Any]) -> Hit:
    return Hit(str(note["commit"]), str(note["file"]), tuple(map(str, note["found"])))


def read_chain(outputs: Sequence[Path]) -> list[Stage]:
    """Read the manifests of a chain.

    Raises:
        OctoError: an output is no stage's, or does not follow from the one before.
    """
    stages = [read_stage(path) for path in outputs]
    for before, after in pairwise(stages):
        if after.rows_in != before.written or after.before != before.kept:
            what = (
                f"{after.rows_in:,} rows in, {after.before:,} of them kept before,"
                f" after an output of {before.written:,} rows, {before.kept:,} of them kept"
            )
            raise OctoError(what, where=after.path, hint="name the outputs of one chain, in order")
    return stages


def spans(stages: Sequence[Stage]) -> list[Span]:
    """Return the fewest outputs from which the counts of all stages follow, the last one first.

    An output with dropped rows tells what the stages before it dropped, back to one that left its dropped rows out, or
    that dropped by a rule by which a stage before it dropped, too.
    """
    found, last = [], len(stages) - 1
    while last >= 0:
        first = last
        while first > 0 and stages[first].clear:
            first -= 1
        found.append(Span(first, last))
        last = first - 1
    return found


def owners(stages: Sequence[Stage], span: Span) -> dict[str, int]:
    """Return the stage of a span that dropped the rows of each rule; rows of other rules were dropped before it."""
    numbers: Iterable[int] = (number for number in range(span.first, span.last + 1) if stages[number].clear)
    return {rule: number for number in numbers for rule in stages[number].dropped}
