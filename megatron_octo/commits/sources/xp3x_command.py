"""``commits xp3x``: rows drawn from the code files of xP3x, as many of each file as OctoPack drew, shuffled.

A row is drawn by the hash of its content and the seed, so the order of the files and of their rows does not matter.
Memory: the drawn rows.
"""

import argparse
import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo.commits.rows import Job, Task, run_tasks
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.job import known_inputs
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.rows.stage import Write
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.sources.pair import COLUMNS
from megatron_octo.commits.sources.stage import languages_said, open_inputs
from megatron_octo.commits.sources.xp3x import Draw, Drawing, counts, draw, find_files, read_counts
from megatron_octo.data.preprocessing.workers import ordered_map


@dataclass(frozen=True)
class Settings:
    """What the rows follow from."""

    counts: dict[str, int]
    seed: int = 42
    source: str = "xp3x"


class _Shuffled:
    """Writes drawn rows in the order of their hashes."""

    def __init__(self, drawings: list[Drawing]) -> None:
        self._rows = [row for each in drawings for row in each.rows]
        self._seen = sum(each.seen for each in drawings)

    def __call__(self, write: Write) -> dict[str, Any]:
        languages: dict[str, int] = {}
        for each in sorted(self._rows, key=lambda each: (each.key, each.pair.inputs, each.pair.outputs)):
            if each.pair.lang:
                languages[each.pair.lang] = languages.get(each.pair.lang, 0) + 1
            write(each.pair)
        return {"counts": {"languages": languages}, "rows_in": self._seen}


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("xp3x", help="rows of xP3x's code files", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="holds the files, at any depth, plain or packed")
    add_common(parser, inputs=False)
    add("--counts", type=Path, metavar="FILE", help="YAML of files and rows (default: OctoPack's 95 files)")
    add("--seed", type=int, default=42, metavar="N", help="of the draw (default: %(default)s)")
    add("--source", default="xp3x", metavar="NAME", help="in the column source (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    wanted = counts() if arguments.counts is None else read_counts(arguments.counts)
    files = find_files(arguments.folder, wanted)
    names = sorted(wanted)
    sources = open_inputs([files[name] for name in names])
    job = Job("xp3x", asdict(Settings(wanted, arguments.seed, arguments.source)), False, COLUMNS)
    inputs = known_inputs(sources)
    drawings: list[Drawing] = []
    if not job.ledger(arguments.output, inputs).is_complete():
        draws = [
            Draw(name, source, wanted[name], arguments.seed, arguments.source)
            for name, source in zip(names, sources, strict=True)
        ]
        with Meter("xp3x: draw", sum(source.size for source in sources)) as meter:
            for each, drawing in zip(draws, ordered_map(functools.partial(_identity, draw), draws, arguments.jobs)):
                drawings.append(drawing)
                meter.add(each.source.size, drawing.seen)
    task = Task({"all": inputs}, _Shuffled(drawings))
    found = run_tasks(job, [task], arguments.output, inputs=inputs, total=1, jobs=1)
    print(said(found, arguments.output))
    print(languages_said(found))
    return 0


def _identity[T](value: T) -> T:
    return value
