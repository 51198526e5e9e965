"""``commits report``: what a chain of stages did, as a page and in Markdown, with sampled rows, and a data card.

Name the outputs of the stages in order, or the recipe. Counts by language and reason come from the last output, as far
back as it holds the dropped rows, and from the outputs before it where a stage left them out.
"""

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path

from megatron_octo.commits.chain.recipe import read_recipe
from megatron_octo.commits.commands import parser_of
from megatron_octo.commits.report.card import card
from megatron_octo.commits.report.collect import collect
from megatron_octo.commits.report.markdown import markdown, summary
from megatron_octo.commits.report.page import page
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write

_SAMPLES = 1000


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    parser = parsers.add_parser("report", help="a page and a data card", description=__doc__)
    add = parser.add_argument
    add("outputs", nargs="+", type=Path, metavar="OUTPUT|RECIPE", help="outputs of stages in order, or one recipe")
    text = "folder for report.html, report.md and README.md"
    add("--output", required=True, type=Path, metavar="DIR", help=text)
    add("--name", default="commits", help="of the data set (default: %(default)s)")
    add("--license-note", default="", metavar="TEXT", help="what to say of the licences")
    text = "tokenizer.json, to count the tokens of the rows that the filter did not count"
    add("--tokenizer", type=Path, metavar="FILE", help=text)
    add("--files", default="*.parquet", metavar="PATTERN", help="data files beside the card (default: %(default)s)")
    add("--samples", type=int, default=20, metavar="N", help="rows to show (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice of rows (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if not 0 <= arguments.samples <= _SAMPLES or not 0 <= arguments.seed < 2**64:
        raise OctoError(f"--samples: from 0 to {_SAMPLES}; --seed: from 0 to 2^64 - 1", where="command line")
    outputs = list(arguments.outputs)
    if len(outputs) == 1 and outputs[0].suffix in (".yaml", ".yml"):
        outputs = [step.output for step in read_recipe(outputs[0], parser_of).steps]
    report = collect(outputs, arguments.samples, arguments.seed, arguments.tokenizer)
    name, note = arguments.name, arguments.license_note
    texts: dict[str, Iterable[str]] = {
        "report.html": page(report, name, note),
        "report.md": markdown(report, name, note),
        "README.md": [card(report, name, arguments.files, note)],
    }
    write(arguments.output, texts)
    print(f"{arguments.output}: {', '.join(texts)}; {summary(report)}")
    return 0


def write(folder: Path, texts: dict[str, Iterable[str]]) -> None:
    """Write files into a folder; the old ones are replaced when all new ones are written.

    Raises:
        OctoError: a folder has the name of one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            for name, parts in texts.items():
                if (folder / name).is_dir():
                    raise OctoError("this is a folder, not a file of an earlier report", where=folder / name)
                file = stack.enter_context(atomic_write(folder / name, "w"))
                file.writelines(parts)
                file.flush()  # a full disk shows before the first file is replaced
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where it is empty
        raise
