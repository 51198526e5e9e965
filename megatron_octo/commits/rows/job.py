"""A stage with its settings: what its output is known again by, and the counts of its manifest."""

import dataclasses
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo import __version__
from megatron_octo.commits.rows.ledger import Ledger, Record
from megatron_octo.commits.rows.row import COLUMNS
from megatron_octo.commits.rows.tally import Tally, plain
from megatron_octo.common.files import digest_json
from megatron_octo.common.quoting import masked_words
from megatron_octo.data.preprocessing.sources import Input


@dataclass(frozen=True)
class Job:
    """A stage with its settings.

    Attributes:
        name: of the stage.
        settings: a dataclass, a mapping of JSON values, or None; the parts follow from it.
        leave_out: whether dropped rows are left out of the output; they are counted all the same.
        columns: those of text that every row has.
    """

    name: str
    settings: Any = None
    leave_out: bool = False
    columns: tuple[str, ...] = COLUMNS

    def base(self) -> Record:
        """Return what every part follows from, as JSON."""
        settings = self.settings
        if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
            settings = dataclasses.asdict(settings)
        return {"stage": self.name, "version": __version__, "settings": settings, "leave_out": self.leave_out}

    def ledger(self, output: str | Path, inputs: Sequence[Mapping[str, Any]]) -> Ledger:
        """Return the ledger of an output that is made of these inputs."""
        return Ledger(Path(output), digest_json(plain([self.base(), list(inputs)])), self.columns)


def known_inputs(sources: Sequence[Input]) -> list[Record]:
    """Return what input files are known again by."""
    return [{"path": source.path, "identity": source.identity, "bytes": source.size} for source in sources]


def sum_parts(job: Job, parts: Sequence[Record]) -> Record:
    """Return the manifest's counts over all parts."""
    total, before, rows_in = Tally(), Counter[str](), 0
    for part in parts:
        total.add(Tally.parse(part))
        before.update(part.get("dropped_before", {}))
        rows_in += int(part["rows_in"] if "rows_in" in part else part["rows"])
    counts: dict[str, Counter[str]] = {}
    for part in parts:
        for name, values in part.get("counts", {}).items():
            counts.setdefault(name, Counter()).update(values)
    return describe(job, total, before, rows_in) | {
        **({"counts": {name: dict(values.most_common()) for name, values in counts.items()}} if counts else {}),
        "cpu_seconds": round(sum(float(part["cpu_seconds"]) for part in parts), 3),
        **(
            {"notes": [note for part in parts for note in part["notes"]]}
            if any("notes" in part for part in parts)
            else {}
        ),
    }


def describe(job: Job, total: Tally, before: Counter[str], rows_in: int) -> Record:
    """Return a manifest's counts, and what made them.

    Args:
        job: the stage.
        total: counts of the output.
        before: of the rows that came in, those that an earlier stage dropped.
        rows_in: number of rows that came in.
    """
    here = {rule: count for rule, count in sorted((total.dropped - before).items()) if count}
    versions = {"megatron_octo": __version__, "python": platform.python_version()}
    return {
        **plain(job.base()),
        "rows_in": rows_in,
        **total.record(),
        "dropped_here": here,
        "command": masked_words(sys.argv),
        "versions": versions,
    }
