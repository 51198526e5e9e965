"""``commits languages``: the language of each row by the name of its file."""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from megatron_octo.commits.rows import UNKNOWN, Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.tables.languages import language_of, languages
from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import did_you_mean


@dataclass(frozen=True)
class Settings:
    """Which rows are kept.

    Attributes:
        keep_unknown: whether those of no known language are.
        only: display names; empty for all.
    """

    keep_unknown: bool = False
    only: tuple[str, ...] = ()


def set_languages(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Set the language of all rows that are not dropped, and drop those of others."""

    def one(row: Row) -> Row:
        row.lang = language_of(row.new_file or row.old_file)
        if row.lang == UNKNOWN:
            return row if settings.keep_unknown else row.mark("language_unknown", row.new_file)
        return row.mark("language", row.lang) if settings.only and row.lang not in settings.only else row

    return each_kept(one, rows)


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("languages", help="set the language by the file's name", description=__doc__)
    add_common(parser)
    parser.add_argument("--only", nargs="+", default=[], metavar="LANGUAGE", help="drop rows of other languages")
    parser.add_argument("--keep-unknown", action="store_true", help="keep rows whose file has no known ending")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    names = {name.lower(): name for name in languages()}
    for name in arguments.only:
        if name.lower() not in names:
            near = did_you_mean(name.lower(), names)
            raise OctoError(
                f"no language {name!r}", where="--only", hint=f"did you mean {names[near]!r}?" if near else None
            )
    only = tuple(sorted(names[name.lower()] for name in arguments.only))
    settings = Settings(arguments.keep_unknown, only)
    found = run_stage(
        "languages",
        arguments.inputs,
        arguments.output,
        set_languages,
        settings=settings,
        jobs=arguments.jobs,
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    return 0
