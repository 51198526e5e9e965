"""``commits decontaminate``: drop rows that hold prompts, solutions or tests of benchmarks; a report lists each.

A text counts as found if it is there except for white space and case, or if a share of its runs of words is. The report
lies beside the output, as JSON and as Markdown. ``--report-only`` writes it and drops nothing.
"""

import argparse
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo.commits.clean.benchmark_texts import Source, parse_source, read_texts
from megatron_octo.commits.clean.contamination import Finder
from megatron_octo.commits.rows import Kind, Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, digest_file, write_json

RULE = "contaminated"
SIGNALS: dict[str, Kind] = {"contamination": "texts", "contamination_share": "float"}
_LISTED = 20  # hits of a row in its columns


@dataclass(frozen=True)
class Settings:
    """Of :class:`Finder`; the benchmarks with the digests of their files."""

    sources: tuple[Source, ...]
    digests: tuple[str, ...]
    characters: int
    run: int
    share: float
    report_only: bool = False


@functools.cache
def _finder(settings: Settings) -> Finder:
    texts = [text for source in settings.sources for text in read_texts(source)]
    return Finder(texts, settings.characters, settings.run, settings.share)


def drop_contaminated(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Search all rows that are not dropped."""
    finder = _finder(settings)

    def one(row: Row) -> Row:
        if hits := finder.hits(row):
            row.signals["contamination"] = [
                f"{hit.where} in {hit.column}, {'exact' if hit.exact else f'{hit.share:.2f}'}" for hit in hits[:_LISTED]
            ]
            row.signals["contamination_share"] = hits[0].share
            if not settings.report_only:
                row.mark(RULE, row.signals["contamination"][0])
        return row

    return each_kept(one, rows)


def note_of(row: Row) -> dict[str, Any] | None:
    """Return what the report says of a row; None if nothing was found in it."""
    if not row.signals.get("contamination") or row.drop not in (None, RULE):
        return None
    names = {"commit": row.commit, "file": row.new_file, "repos": row.repos, "subject": row.subject}
    return names | {"found": row.signals["contamination"]}


def markdown(found: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    per: Counter[str] = Counter()
    for row in found["rows"]:
        per.update({each.partition("/")[0] for each in row["found"]})
    lines = ["# Contamination", "", f"{found['rows_in']:,} rows, {len(found['rows']):,} with texts of benchmarks.", ""]
    lines += ["| benchmark | texts | left out as too short | rows |", "|---|---|---|---|"]
    for name, counts in found["benchmarks"].items():
        lines.append(f"| {name} | {counts['texts']:,} | {counts['left_out']:,} | {per[name]:,} |")
    lines += ["", "| commit | file | subject | found |", "|---|---|---|---|"]
    for row in found["rows"]:
        cells = [row["commit"][:12], row["file"], row["subject"], "; ".join(row["found"][:3])]
        lines.append("| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in cells) + " |")
    return "\n".join(lines) + "\n"


def write_report(manifest: Mapping[str, Any], settings: Settings, output: Path) -> Path:
    """Write the report beside the output; returns the path of the Markdown."""
    finder = _finder(settings)
    benchmarks = {}
    for source in settings.sources:
        left = sum(where.startswith(f"{source.name}/") for where in finder.left_out)
        benchmarks[source.name] = {"texts": sum(1 for _ in read_texts(source)), "left_out": left}
    found = {
        "rows_in": manifest["rows_in"],
        "settings": asdict(settings),
        "benchmarks": benchmarks,
        "left_out": finder.left_out,
        "rows": manifest.get("notes", []),
    }
    write_json(output.with_name(f"{output.name}.contamination.json"), found)
    path = output.with_name(f"{output.name}.contamination.md")
    with atomic_write(path, "w") as file:
        file.write(markdown(found))
    return path


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("decontaminate", help="drop rows with texts of benchmarks", description=__doc__)
    add_common(parser)
    add = parser.add_argument
    text = "NAME=PATH[:FIELD,FIELD]: rows of jsonl, or a folder of files with NAME in theirs (repeatable)"
    add("--benchmark", action="append", required=True, metavar="NAME=PATH", help=text)
    text = "texts with fewer characters, without white space, are left out (default: %(default)s)"
    add("--min-characters", type=int, default=50, metavar="N", help=text)
    add("--run", type=int, default=10, metavar="N", help="words of a run (default: %(default)s)")
    text = "of a text's runs that a row has to hold (default: %(default)s)"
    add("--share", type=float, default=0.5, metavar="S", help=text)
    add("--report-only", action="store_true", help="drop nothing")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if not 0 < arguments.share <= 1:
        raise OctoError(f"--share {arguments.share}: above 0 and at most 1", where="command line")
    if arguments.run < 1 or arguments.min_characters < 1:
        raise OctoError("--run and --min-characters: at least 1", where="command line")
    sources = tuple(map(parse_source, arguments.benchmark))
    digests = tuple(digest_file(path) for source in sources for path in source.paths)
    settings = Settings(
        sources, digests, arguments.min_characters, arguments.run, arguments.share, arguments.report_only
    )
    _finder(settings)  # a bad benchmark fails before the work
    found = run_stage(
        "decontaminate",
        arguments.inputs,
        arguments.output,
        drop_contaminated,
        settings=settings,
        jobs=arguments.jobs,
        signals=SIGNALS,
        leave_out=arguments.drop,
        note=note_of,
    )
    path = write_report(found, settings, Path(arguments.output))
    print(said(found, arguments.output))
    print(f"{path}: {len(found.get('notes', [])):,} rows with texts of benchmarks")
    return 0
