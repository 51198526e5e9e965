"""``commits optout``: repositories of owners that opted out leave the rows; rows without another one are dropped."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megatron_octo.commits.rows import Row, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.tables.optout import default_owners, opt_out_rows, read_owners


@dataclass(frozen=True)
class Settings:
    """The logins, and the lists that they come from: file, date, source, number of logins."""

    logins: tuple[str, ...]
    lists: tuple[tuple[str, str, str, int], ...]


def drop_opted_out(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Apply the lists to all rows that are not dropped."""
    return opt_out_rows(rows, settings.logins)


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("optout", help="drop rows of owners that opted out", description=__doc__)
    add_common(parser)
    text = "a list of further logins: one a line, or YAML with date and source (may be given several times)"
    parser.add_argument("--opt-out", action="append", default=[], metavar="FILE", help=text)
    parser.add_argument("--only-these", action="store_true", help="leave the list of the project out")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    lists = [] if arguments.only_these else [default_owners()]
    lists += [read_owners(path) for path in arguments.opt_out]
    logins = tuple(sorted(frozenset().union(*(each.logins for each in lists))))
    known = tuple((each.name, each.date, each.source, len(each.logins)) for each in lists)
    found = run_stage(
        "optout",
        arguments.inputs,
        arguments.output,
        drop_opted_out,
        settings=Settings(logins, known),
        jobs=arguments.jobs,
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    return 0
