"""``commits pairs``: commits as pairs of inputs and outputs, by a template of preprocessing.

The default is the form in which OctoPack mixed commits into its instruction data: subject and contents before; contents
after. Formats with control tokens spell them out as text: preprocess such pairs with --allow-special, or leave the
commits as they are and name the format there.
"""

import argparse

from megatron_octo.commits.rows import input_files
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.reading import open_rows
from megatron_octo.commits.rows.tally import said
from megatron_octo.commits.sources.commit_pairs import INSTRUCT, Maker, settings_of, spells_tokens
from megatron_octo.commits.sources.stage import languages_said, run_pairs


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("pairs", help="commits as pairs", description=__doc__)
    add_common(parser)
    add = parser.add_argument
    text = "instruct, a format of preprocess (octocoder works on pairs, not here), or a template (default: %(default)s)"
    add("--format", default=INSTRUCT, metavar="NAME|FILE.yaml", help=text)
    add("--seed", type=int, default=42, metavar="N", help="of what a format leaves to chance (default: %(default)s)")
    add("--source", default="commits", metavar="NAME", help="in the column source (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    settings = settings_of(arguments.format, arguments.seed, arguments.source)
    found = run_pairs(
        "pairs",
        [open_rows(path) for path in input_files(arguments.inputs)],
        arguments.output,
        Maker,
        settings,
        jobs=arguments.jobs,
        signals={"file": "text", "repos": "text"},
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    print(languages_said(found))
    if spells_tokens(arguments.format):
        print("the pairs spell control tokens out: preprocess them with --allow-special")
    return 0
