"""``commits oasst``: first question and answer of conversations, without those that have one of OctoPack's phrases.

Takes files whose rows are lists of messages (oasst-octopack), objects with ``messages`` (oasst1_guanaco), or trees
with ``prompt`` and ``replies`` (OASST itself). The column ``lang`` is the language of the answer's first code block.
"""

import argparse
from pathlib import Path

from megatron_octo.commits.rows import Kind
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.sources.oasst import Maker, Settings, phrases, read_phrases
from megatron_octo.commits.sources.stage import languages_said, open_inputs, run_pairs

SIGNALS: dict[str, Kind] = {"natural_language": "text", "messages": "int"}


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("oasst", help="pairs of conversations", description=__doc__)
    add_common(parser)
    add = parser.add_argument
    add("--phrases", type=Path, metavar="FILE", help="phrases of your own, in place of OctoPack's")
    add("--no-phrases", action="store_true", help="look for none")
    text = "look for phrases in the first question and answer alone (default: in all messages, as OctoPack does)"
    add("--first-only", action="store_true", help=text)
    text = "codes of natural languages that stay, as en,es; rows that state none are dropped (default: all stay)"
    add("--languages", metavar="A,B", help=text)
    add("--source", default="oasst", metavar="NAME", help="in the column source (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    chosen = phrases() if arguments.phrases is None else read_phrases(arguments.phrases)
    codes = arguments.languages and tuple(sorted({each.strip() for each in arguments.languages.split(",")}))
    settings = Settings(
        () if arguments.no_phrases else chosen, codes or None, not arguments.first_only, arguments.source
    )
    found = run_pairs(
        "oasst",
        open_inputs(arguments.inputs, lists=True),
        arguments.output,
        Maker,
        settings,
        jobs=arguments.jobs,
        signals=SIGNALS,
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    print(languages_said(found))
    return 0
