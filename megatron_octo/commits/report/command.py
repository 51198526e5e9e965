"""``commits report``: a page of what a chain of stages did, with sampled rows, and a data card for the hub.

Name the outputs of the stages in order, or the recipe. Counts by language before and after each stage need an output
that still holds the dropped rows; the last stage may leave them out.
"""

import argparse
from pathlib import Path

from megatron_octo.commits.chain.recipe import read_recipe
from megatron_octo.commits.commands import parser_of
from megatron_octo.commits.report.card import card
from megatron_octo.commits.report.collect import collect
from megatron_octo.commits.report.page import page
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("report", help="a page and a data card", description=__doc__)
    add = parser.add_argument
    add("outputs", nargs="+", type=Path, metavar="OUTPUT|RECIPE", help="outputs of stages in order, or one recipe")
    add("--output", required=True, type=Path, metavar="DIR", help="folder for report.html and README.md")
    add("--name", default="commits", help="of the data set (default: %(default)s)")
    add("--files", default="*.parquet", metavar="PATTERN", help="data files beside the card (default: %(default)s)")
    add("--samples", type=int, default=20, metavar="N", help="rows to show (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice of rows (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if arguments.samples < 0 or not 0 <= arguments.seed < 2**64:
        raise OctoError("--samples and --seed: not below 0", where="command line")
    outputs = list(arguments.outputs)
    if len(outputs) == 1 and outputs[0].suffix in (".yaml", ".yml"):
        outputs = [step.output for step in read_recipe(outputs[0], parser_of).steps]
    report = collect(outputs, arguments.samples, arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output / "report.html", "w") as file:
        file.writelines(page(report, arguments.name))
    with atomic_write(arguments.output / "README.md", "w") as file:
        file.write(card(report, arguments.name, arguments.files))
    total = report.total
    print(f"{arguments.output}: report.html and README.md of {total.rows:,} rows, {len(report.final):,} languages")
    return 0
