"""Counts of a chain: of each stage by its manifest, by language and reason from the rows, and some rows to look at."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import xxhash

from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.commits.rows.reading import manifest_of
from megatron_octo.commits.rows.row import text_bytes
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json

_BINS = 24  # of a histogram: the n-th counts sizes from 2^(n-1) to 2^n - 1
_SAMPLE_BYTES = 64 << 10  # larger rows are no samples


@dataclass(frozen=True)
class Stage:
    """A stage by its manifest.

    Attributes:
        name: of the command.
        path: of the output.
        rows_in: rows that came in.
        kept: rows that no stage dropped so far.
        dropped: rows that this stage dropped, by rule.
        left_out: whether the output holds no dropped rows.
        notes: what its manifest lists of rows.
        cpu_seconds: of the work.
    """

    name: str
    path: Path
    rows_in: int
    kept: int
    dropped: dict[str, int]
    left_out: bool
    notes: int
    cpu_seconds: float


@dataclass
class Amount:
    """Rows, bytes of their contents, and tokens where they were counted."""

    rows: int = 0
    size: int = 0
    tokens: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        self.size += text_bytes(row.old_contents) + text_bytes(row.new_contents)
        tokens = row.signals.get("tokens")
        self.tokens += tokens if isinstance(tokens, int) else 0

    def plus(self, other: "Amount") -> "Amount":
        """Return the sum of both."""
        return Amount(self.rows + other.rows, self.size + other.size, self.tokens + other.tokens)


@dataclass
class Report:
    """All that the page shows.

    Attributes:
        stages: in order.
        amounts: by language and rule that dropped the rows, None for kept ones; from an output with dropped rows.
        final: by language, from the last output.
        verbs, licences, duplicates: number of kept rows by verb and licence; of rows by the kind of duplicate.
        histograms: number of kept rows by size, in powers of two, for each measure.
        samples: kept rows, chosen by a hash of their commits.
        empty: kept rows whose contents before are missing or empty.
    """

    stages: list[Stage]
    amounts: dict[tuple[str, str | None], Amount] = field(default_factory=dict)
    final: dict[str, Amount] = field(default_factory=dict)
    verbs: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    samples: list[Row] = field(default_factory=list)
    empty: int = 0

    @property
    def total(self) -> Amount:
        """What the last output holds."""
        return _sum(self.final.values())

    def after(self, number: int, language: str) -> Amount:
        """Return what was kept of a language after the first ``number`` stages."""
        gone = {rule for stage in self.stages[:number] for rule in stage.dropped}
        return _sum(each for (lang, rule), each in self.amounts.items() if lang == language and rule not in gone)


def _sum(amounts: Iterator[Amount] | Any) -> Amount:
    found = Amount()
    for each in amounts:
        found = found.plus(each)
    return found


def read_stage(path: Path) -> Stage:
    """Read the manifest of a stage's output.

    Raises:
        OctoError: there is none, or it is damaged.
    """
    place = manifest_of(path)
    if not place.is_file():
        raise OctoError("no manifest of a stage", where=place, hint="name the outputs of stages, in order")
    found = read_json(place)
    try:
        return Stage(
            str(found["stage"]),
            path,
            int(found["rows_in"]),
            int(found["kept"]),
            {str(rule): int(count) for rule, count in found["dropped_here"].items()},
            bool(found["leave_out"]),
            len(found.get("notes", ())),
            float(found.get("cpu_seconds", 0.0)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OctoError(f"not the manifest of a stage: {type(error).__name__}: {error}", where=place) from None


def collect(outputs: Sequence[Path], samples: int, seed: int) -> Report:
    """Count the rows of a chain; reads the last output, and the last one with dropped rows if it is another.

    Memory does not depend on the number of rows.

    Raises:
        OctoError: an output is no stage's, does not follow from the one before, or is damaged.
    """
    stages = [read_stage(path) for path in outputs]
    for before, after in pairwise(stages):
        if after.rows_in not in (before.kept, before.rows_in) or after.kept > before.kept:
            what = f"{after.rows_in:,} rows in, {after.kept:,} kept, after {before.rows_in:,} and {before.kept:,}"
            raise OctoError(what, where=after.path, hint="name the outputs of one chain, in order")
    report = Report(stages)
    whole = next((stage for stage in reversed(stages) if not stage.left_out), None)
    if whole is not None:
        for row in read_rows(whole.path):
            report.amounts.setdefault((row.lang or "unknown", row.drop), Amount()).add(row)
            if kind := row.signals.get("dedup_kind"):
                report.duplicates[str(kind)] += 1
    chosen: list[tuple[int, int, Row]] = []
    for number, row in enumerate(row for row in read_rows(outputs[-1]) if row.kept):
        _count(report, row)
        small = text_bytes(row.old_contents) + text_bytes(row.new_contents) <= _SAMPLE_BYTES
        if small and row.new_contents is not None and samples:
            entry = (-xxhash.xxh3_64_intdigest(row.commit.encode("utf-8", "surrogatepass"), seed), -number, row)
            heapq.heappush(chosen, entry) if len(chosen) < samples else heapq.heappushpop(chosen, entry)
    report.samples = [row for _, _, row in sorted(chosen, reverse=True)]
    return report


def _count(report: Report, row: Row) -> None:
    report.final.setdefault(row.lang or "unknown", Amount()).add(row)
    report.verbs[str(row.signals.get("verb") or row.subject.split(" ", 1)[0].lower())] += 1
    report.licences[row.license or "unknown"] += 1
    report.empty += not row.old_contents
    sizes = {
        "characters before": len(row.old_contents or ""),
        "characters after": len(row.new_contents or ""),
        "characters of the subject": len(row.subject),
        "tokens": row.signals.get("tokens"),
    }
    for name, size in sizes.items():
        if isinstance(size, int):
            bins = report.histograms.setdefault(name, [0] * _BINS)
            bins[min(size.bit_length(), _BINS - 1)] += 1
    if len(report.verbs) > 100_000:  # of hostile subjects; the most frequent ones are shown
        report.verbs = Counter(dict(report.verbs.most_common(1000)))
