"""``commits selfinstruct``: pairs of instructions and answers by any of the usual names of columns.

Known are instruction, input and output; prompt and completion; question and answer; inputs with outputs or targets.
The column ``lang`` is kept, else it is the language of the answer's first code block.
"""

import argparse
from dataclasses import dataclass
from typing import Any

from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.sources.code_language import code_language
from megatron_octo.commits.sources.pair import Pair
from megatron_octo.commits.sources.stage import languages_said, open_inputs, run_pairs


@dataclass(frozen=True)
class Settings:
    """Name in the column ``source``."""

    source: str = "selfinstruct"


class Maker:
    """Makes a pair of a row."""

    def __init__(self, settings: Settings) -> None:
        self._source = settings.source

    def __call__(self, value: Any) -> Pair:
        """Make a pair of a row's columns.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(value, dict):
            raise ValueError("no object")
        pair = Pair.parse(value)
        pair.source = self._source
        pair.lang = pair.lang or code_language(pair.outputs)
        return pair.checked()


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("selfinstruct", help="pairs of instructions and answers", description=__doc__)
    add_common(parser)
    parser.add_argument(
        "--source", default="selfinstruct", metavar="NAME", help="in the column source (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    found = run_pairs(
        "selfinstruct",
        open_inputs(arguments.inputs),
        arguments.output,
        Maker,
        Settings(arguments.source),
        jobs=arguments.jobs,
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    print(languages_said(found))
    return 0
