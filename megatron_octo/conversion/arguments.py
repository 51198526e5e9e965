"""Command line of ``python -m megatron_octo.convert``; imports no torch, so that ``--help`` is fast."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

_OF_WEIGHTS = (
    "--dtype",
    "--base-weights",
    "--tokenizer",
    "--eod-token",
    "--vocab-size",
    "--shard-size",
    "--verify",
)
_WEIGHTS = "a run, a checkpoint, a Hugging Face directory or a BigCode checkpoint"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; combinations of options without a meaning are refused."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "verify" and (arguments.other is None) == (arguments.against is None):
        parser.error("verify compares two: name the second after the first, or with --against")
    if arguments.command == "to-hf":
        if arguments.adapter and (given := [name for name in _OF_WEIGHTS if _value(arguments, name)]):
            parser.error(f"--adapter writes adapters as they are: it takes no {' and no '.join(given)}")
        if arguments.public and not arguments.push:
            parser.error("--public is an option of --push, which is missing")
        if arguments.tolerance is not None and not arguments.verify:
            parser.error("--tolerance is an option of --verify, which is missing")
    return arguments


def _value(arguments: argparse.Namespace, option: str) -> Any:
    return getattr(arguments, option.removeprefix("--").replace("-", "_"))


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.convert",
        description="Convert weights between formats and parallel layouts, and prove that nothing changed. "
        "A conversion that was killed goes on where it stopped when it is started again.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    to_hf = commands.add_parser("to-hf", help="any weights -> Hugging Face directory")
    _paths(to_hf, "RUN", _WEIGHTS)
    to_hf.add_argument("--tokenizer", help="tokenizer.json (default: the run's)")
    to_hf.add_argument(
        "--eod-token", metavar="TOKEN", help="that ends a document (default: the data's, or the source's)"
    )
    to_hf.add_argument("--adapter", action="store_true", help="of a LoRA run: its adapters alone, for peft")
    to_hf.add_argument(
        "--renew",
        action="store_true",
        help="keep an OUT of the run's newest checkpoint, replace one of another",
    )
    to_hf.add_argument("--push", metavar="REPO", help="upload the result to this repository of the Hugging Face Hub")
    to_hf.add_argument("--public", action="store_true", help="a repository that --push makes is private without it")
    to_hf.add_argument("--verify", action="store_true", help="compare both afterwards, and upload what is equal alone")

    from_hf = commands.add_parser("from-hf", help="Hugging Face directory -> weights for checkpoint.init_from")
    _paths(from_hf, "DIR", "directory with config.json and safetensors")

    to_bigcode = commands.add_parser("to-bigcode", help="any weights -> checkpoint of BigCode's Megatron-LM")
    _paths(to_bigcode, "RUN", _WEIGHTS)

    from_bigcode = commands.add_parser(
        "from-bigcode", help="checkpoint of BigCode's Megatron-LM -> weights for checkpoint.init_from"
    )
    _paths(from_bigcode, "DIR", "directory with latest_checkpointed_iteration.txt")

    reshard = commands.add_parser("reshard", help="checkpoint -> checkpoint of another parallel layout")
    _paths(reshard, "RUN", _WEIGHTS)
    reshard.add_argument("--weights-only", action="store_true", help="leave the optimizer's state behind")

    for command in (to_hf, from_hf, to_bigcode, from_bigcode, reshard):
        command.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="of the weights (default: their own)")
    for command in (to_hf, from_hf, from_bigcode, reshard):
        command.add_argument(
            "--shard-size",
            type=_gigabytes,
            metavar="GB",
            help="of a file; what a kill can cost (default: 5)",
        )
    for command in (from_hf, to_bigcode, from_bigcode, reshard):
        command.add_argument("--tensor", type=_size, default=1, help="ranks of tensor parallelism (default: 1)")
        command.add_argument("--pipeline", type=_size, default=1, help="stages of pipeline parallelism (default: 1)")

    verify = commands.add_parser("verify", help="compare two copies of a model: weights, and logits on text")
    verify.add_argument("source", metavar="ONE", help=_WEIGHTS)
    verify.add_argument("other", metavar="OTHER", nargs="?", help="the same, in the same format or another")
    verify.add_argument("--against", metavar="OTHER", help="another way to name it")
    verify.add_argument("--text", help="file that both networks read (default: a source file of this library)")
    verify.add_argument("--json", help="write the figures to this file, too")

    show = commands.add_parser("show", help="what a directory of weights holds")
    show.add_argument("source", metavar="WEIGHTS", help=_WEIGHTS)
    show.add_argument("--tensors", action="store_true", help="list every tensor, too")
    show.add_argument("--json", action="store_true", help="as JSON")

    for command in (to_hf, verify):
        command.add_argument("--tolerance", type=_tolerance, help="of the largest logit difference (default: 1e-4)")
    for command in (to_hf, to_bigcode, reshard, verify):
        command.add_argument("--base-weights", metavar="DIR", help="of a LoRA run: its base, if that was moved")
    for command in (to_hf, to_bigcode, from_bigcode, reshard, verify, show):
        command.add_argument(
            "--vocab-size",
            type=_size,
            help="of a BigCode checkpoint: real tokens (default: as to-bigcode noted, or all rows)",
        )
    return parser


def _paths(command: argparse.ArgumentParser, metavar: str, help: str) -> None:
    command.add_argument("source", metavar=metavar, help=help)
    command.add_argument("output", metavar="OUT", help="directory to make")


def _size(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _gigabytes(text: str) -> int:
    """Bytes."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size above 0")
    return math.ceil(value * 1e9)


def _tolerance(text: str) -> float:
    value = _number(text)
    if not value >= 0:  # nor NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a difference")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
