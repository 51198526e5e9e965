"""``commits bots``: drop commits that programs wrote, by author and committer, else by the subject."""

import argparse
from collections.abc import Iterable, Iterator

from megatron_octo.commits.rows import Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.tables.bots import RULE, bot_reason


def drop_bots(rows: Iterable[Row], settings: object) -> Iterator[Row]:
    """Apply the table to all rows that are not dropped."""

    def one(row: Row) -> Row:
        why = bot_reason(row)
        return row if why is None else row.mark(RULE, why)

    return each_kept(one, rows)


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    add_common(parsers.add_parser("bots", help="drop commits that programs wrote", description=__doc__))


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    found = run_stage(
        "bots", arguments.inputs, arguments.output, drop_bots, jobs=arguments.jobs, leave_out=arguments.drop
    )
    print(said(found, arguments.output))
    return 0
