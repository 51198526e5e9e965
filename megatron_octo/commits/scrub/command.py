"""``commits scrub``: e-mail addresses, keys, tokens, passwords and IP addresses become placeholders.

A value has the same placeholder in the contents before and after, the subject and the message. Author and committer
become null. Nothing is dropped.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megatron_octo.commits.rows import Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.scrub.patterns import patterns
from megatron_octo.commits.scrub.scrubber import Scrubber


@dataclass(frozen=True)
class Settings:
    """Of :class:`Scrubber`; the patterns with their expressions, so that a change of the table makes another job."""

    names: tuple[str, ...]
    expressions: tuple[str, ...]
    keep_persons: bool = False
    prefilter: bool = True


def scrub_rows(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Scrub all rows that are not dropped."""
    scrubber = Scrubber(settings.names, prefilter=settings.prefilter, keep_persons=settings.keep_persons)
    return each_kept(scrubber.scrub, rows)


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("scrub", help="replace addresses and secrets", description=__doc__)
    add_common(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these patterns (default: all)")
    parser.add_argument("--without", nargs="+", metavar="NAME", default=[], help="all patterns but these")
    parser.add_argument("--keep-persons", action="store_true", help="leave author and committer as they are")
    text = "let re alone look for the patterns; the same result, many times slower"
    parser.add_argument("--no-prefilter", action="store_true", help=text)


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    names = arguments.only or [each.name for each in patterns()]
    Scrubber([*names, *arguments.without], prefilter=not arguments.no_prefilter)  # unknown names fail before the work
    chosen = [each for each in patterns() if each.name in names and each.name not in arguments.without]
    found = run_stage(
        "scrub",
        arguments.inputs,
        arguments.output,
        scrub_rows,
        settings=Settings(
            tuple(each.name for each in chosen),
            tuple(each.text for each in chosen),
            arguments.keep_persons,
            not arguments.no_prefilter,
        ),
        jobs=arguments.jobs,
        signals={"scrubbed": "texts", "scrubbed_values": "int"},
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    return 0
