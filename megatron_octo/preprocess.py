"""Tokenise jsonl files into an indexed dataset: ``python -m megatron_octo.preprocess --help``."""

import argparse
import os
import re
import signal
from types import FrameType
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError, run_command

if TYPE_CHECKING:
    from megatron_octo.data.preprocessing.pipeline import Stage


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.preprocess",
        description="Tokenise rows of text into PREFIX.bin, PREFIX.idx and PREFIX.json (the manifest). The same "
        "command goes on after a kill: finished shards are kept in PREFIX.work-* until the end.",
        epilog="The format of the rows and of the files is described in docs/data.md.",
    )
    add = parser.add_argument
    add(
        "--input",
        nargs="+",
        required=True,
        metavar="A",
        help="files of rows: jsonl, plain or packed (gzip, bzip2, xz, zstd), or parquet; or a data set of the "
        "datasets library, saved (its directory) or by name (hf:NAME[,CONFIG][@SPLIT])",
    )
    add("--output-prefix", required=True, metavar="P", help="path of the outputs without suffix")
    add("--tokenizer", required=True, metavar="T", help="tokenizer.json, or a .model of sentencepiece")
    add(
        "--format",
        default="finetune",
        metavar="NAME|FILE.yaml",
        help="what rows become: finetune, text, chat, commits, octocoder and more, or a template of your own "
        "(default: %(default)s)",
    )
    add("--input-key", default="inputs", help="finetune: context column (default: %(default)s)")
    add(
        "--output-key",
        default="outputs",
        help="finetune: learned column (default: %(default)s, else targets)",
    )
    add("--text-key", default="text", help="text: learned column (default: %(default)s)")
    add(
        "--eod-token",
        metavar="T",
        help="token that ends a document (default: <|endoftext|> or the one known)",
    )
    add(
        "--allow-special",
        "--control-text",
        dest="control_text",
        action="store_true",
        help="read control tokens that are spelled out in the rows as tokens (default: as plain text)",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--workers", type=int, default=cores, help="processes (default: %(default)s)")
    add("--on-error", choices=["stop", "skip"], default="stop", help="at a bad row (default: %(default)s)")
    add(
        "--tokenizer-backend",
        choices=["auto", "tokie", "reference"],
        default="auto",
        help="auto: the fast library where it is installed and fits the tokenizer; the tokens are the same",
    )
    add("--dedup", action="store_true", help="keep the first of documents with the same content")
    add("--shuffle", type=int, metavar="SEED", help="put the documents into a random order")
    add(
        "--task",
        metavar="I/N",
        help="make the shards of task I (from 0) of N, and stop; --merge comes after all",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace a complete data set that was made from other inputs or with other options",
    )
    add("--merge", action="store_true", help="put together the shards that all tasks made")
    return parser


def _stage(task: str | None, merge: bool) -> "Stage":
    from megatron_octo.data.preprocessing.pipeline import Stage

    if task is None:
        return Stage(make=not merge)
    found = re.fullmatch(r"(\d+)/(\d+)", task)
    if merge or not found or int(found[1]) >= int(found[2]):
        what = "--task and --merge are two steps" if merge else f"--task {task}: I/N with I from 0 to N - 1"
        raise OctoError(what, where="command line")
    return Stage(int(found[1]), int(found[2]), merge=False)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    if args.workers < 1:
        raise OctoError(f"--workers {args.workers}: at least 1 is needed", where="command line")
    from megatron_octo.data.preprocessing.encode import EncodeOptions
    from megatron_octo.data.preprocessing.pipeline import preprocess
    from megatron_octo.data.text.formats import Keys

    options = EncodeOptions(
        tokenizer=args.tokenizer,
        format=args.format,
        keys=Keys(args.input_key, args.output_key, args.text_key),
        eod_token=args.eod_token,
        control_text=args.control_text,
        on_error=args.on_error,
        backend=args.tokenizer_backend,
        dedup=args.dedup,
        shuffle=args.shuffle,
    )
    stage = _stage(args.task, args.merge)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        _, summary = preprocess(args.input, args.output_prefix, options, args.workers, stage, args.overwrite)
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(summary)
    return 0


if __name__ == "__main__":
    run_command(main)
