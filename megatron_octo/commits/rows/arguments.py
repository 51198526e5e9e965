"""Options that all stages take."""

import argparse
import os


def add_common(parser: argparse.ArgumentParser, *, inputs: bool = True) -> None:
    """Add inputs, output, processes, and ``--drop``.

    Args:
        parser: of a command.
        inputs: whether the command takes files of rows.
    """
    if inputs:
        text = "files of rows (jsonl, plain or packed, parquet), or folders that stages wrote"
        parser.add_argument("inputs", nargs="+", metavar="INPUT", help=text)
    text = "a folder, of parquet parts; or a file: .parquet, .jsonl, or .jsonl with .gz, .bz2, .xz or .zst"
    parser.add_argument("--output", required=True, metavar="OUT", help=text)
    parser.add_argument("--jobs", type=int, default=cores(), metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--drop", action="store_true", help="leave dropped rows out of the output; they are counted")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
