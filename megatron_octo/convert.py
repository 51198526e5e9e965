"""``python -m megatron_octo.convert to-hf | from-hf | to-bigcode | from-bigcode | reshard | verify | show``."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from megatron_octo.errors import run_command
from megatron_octo.files import write_json

_WEIGHTS = "a run, a checkpoint, a Hugging Face directory or a BigCode checkpoint"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.convert",
        description="Convert weights between formats and parallel layouts, and prove that nothing changed. "
        "A conversion that was killed goes on where it stopped when it is started again.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    to_hf = commands.add_parser("to-hf", help="any weights -> Hugging Face directory")
    _paths(to_hf, "RUN", _WEIGHTS)
    to_hf.add_argument("--tokenizer", help="tokenizer.json (default: the run's)")
    to_hf.add_argument("--adapter", action="store_true", help="of a LoRA run: its adapters alone, for peft")
    to_hf.add_argument(
        "--renew",
        action="store_true",
        help="keep an OUT of the run's newest checkpoint, replace one of another",
    )
    to_hf.add_argument(
        "--push", metavar="REPO", help="upload the result to this repository of the Hugging Face Hub"
    )
    to_hf.add_argument(
        "--public", action="store_true", help="a repository that --push makes is private without it"
    )

    from_hf = commands.add_parser(
        "from-hf", help="Hugging Face directory -> weights for checkpoint.init_from"
    )
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
        command.add_argument(
            "--dtype", choices=("fp32", "bf16", "fp16"), help="of the weights (default: as stored)"
        )
    for command in (to_hf, from_hf, from_bigcode, reshard):
        command.add_argument(
            "--shard-size",
            type=float,
            default=5.0,
            metavar="GB",
            help="of a file; what a kill can cost (default: 5)",
        )
    for command in (from_hf, to_bigcode, from_bigcode, reshard):
        command.add_argument(
            "--tensor", type=_size, default=1, help="ranks of tensor parallelism (default: 1)"
        )
        command.add_argument(
            "--pipeline", type=_size, default=1, help="stages of pipeline parallelism (default: 1)"
        )

    verify = commands.add_parser("verify", help="compare two copies of a model: weights, and logits on text")
    verify.add_argument("source", metavar="ONE", help=_WEIGHTS)
    verify.add_argument("other", metavar="OTHER", nargs="?", help="the same, in the same format or another")
    verify.add_argument("--against", metavar="OTHER", help="another way to name it")
    verify.add_argument(
        "--text", help="file that both networks read (default: a source file of this library)"
    )
    verify.add_argument("--tolerance", type=float, help="of the largest logit difference (default: 1e-4)")
    verify.add_argument("--json", help="write the figures to this file, too")

    show = commands.add_parser("show", help="what a directory of weights holds")
    show.add_argument("source", metavar="WEIGHTS", help=_WEIGHTS)
    show.add_argument("--tensors", action="store_true", help="list every tensor, too")
    show.add_argument("--json", action="store_true", help="as JSON")

    for command in (to_hf, to_bigcode, reshard, verify):
        command.add_argument(
            "--base-weights", metavar="DIR", help="of a LoRA run: its base, if that was moved"
        )
    for command in (to_hf, to_bigcode, from_bigcode, reshard, show):
        command.add_argument(
            "--vocab-size",
            type=_size,
            help="of a BigCode checkpoint: real tokens (default: all rows that it has)",
        )
    return parser


def _paths(command: argparse.ArgumentParser, metavar: str, help: str) -> None:
    command.add_argument("source", metavar=metavar, help=help)
    command.add_argument("output", metavar="OUT", help="directory to make")


def _size(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main(argv: list[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "verify" and (arguments.other is None) == (arguments.against is None):
        parser.error("verify compares two: name the second after the first, or with --against")
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "to-hf": _to_hf,
        "to-bigcode": _to_bigcode,
        "verify": _verify,
        "show": _show,
    }
    return commands.get(arguments.command, _to_checkpoint)(arguments)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, silence in a log: the closing line says it all."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _to_hf(arguments: argparse.Namespace) -> int:
    from megatron_octo.conversion.push import open_hub, push
    from megatron_octo.conversion.renew import renew

    hub = open_hub(arguments.push) if arguments.push else None
    output = Path(arguments.output)
    if not arguments.renew:
        _export(arguments, output)
    else:
        asked = {key: getattr(arguments, key) for key in ("dtype", "adapter", "tokenizer", "base_weights")}
        if not renew(arguments.source, output, partial(_export, arguments), asked):
            print(f"{output} is of the newest checkpoint already")
    if hub:
        print(push(hub, output, arguments.push, private=not arguments.public))
    return 0


def _export(arguments: argparse.Namespace, output: Path) -> None:
    from megatron_octo.conversion.peft import to_peft
    from megatron_octo.conversion.to_hf import to_hf

    if arguments.adapter:
        print(f"adapters of {to_peft(arguments.source, output)} -> {arguments.output}")
        return
    with _progress("to Hugging Face") as progress:
        done = to_hf(
            arguments.source,
            output,
            dtype=arguments.dtype,
            tokenizer=arguments.tokenizer,
            base=arguments.base_weights,
            vocab_size=arguments.vocab_size,
            progress=progress,
            shard_bytes=int(arguments.shard_size * 1e9),
        )
    print(f"{done.source} -> {arguments.output}\n{done.rounding}")


def _open(arguments: argparse.Namespace) -> Any:
    from megatron_octo.conversion.opening import open_weights
    from megatron_octo.conversion.to_checkpoint import DTYPES

    return open_weights(
        arguments.source,
        stream=True,
        vocab_size=getattr(arguments, "vocab_size", None),
        base=getattr(arguments, "base_weights", None),
        dtype=DTYPES.get(arguments.dtype),
        expected={"from-hf": "huggingface", "from-bigcode": "bigcode"}.get(arguments.command),
    )


def _to_checkpoint(arguments: argparse.Namespace) -> int:
    import yaml

    from megatron_octo.conversion.to_checkpoint import write_checkpoint

    source = _open(arguments)
    with _progress(arguments.command) as progress:
        rounding = write_checkpoint(
            source,
            arguments.output,
            tensor=arguments.tensor,
            pipeline=arguments.pipeline,
            dtype=arguments.dtype,
            optimizer=not getattr(arguments, "weights_only", False),
            progress=progress,
            shard_bytes=int(arguments.shard_size * 1e9),
        )
    print(f"{source.directory} -> {arguments.output}\n{rounding}")
    if arguments.command != "reshard":
        model = source.manifest.model.model_dump()
        print(f"The recipe's model section:\n\n{yaml.safe_dump({'model': model}, sort_keys=False)}")
    return 0


def _to_bigcode(arguments: argparse.Namespace) -> int:
    from megatron_octo.conversion.to_bigcode import to_bigcode

    source = _open(arguments)
    with _progress("to BigCode") as progress:
        rounding = to_bigcode(
            source,
            arguments.output,
            tensor=arguments.tensor,
            pipeline=arguments.pipeline,
            dtype=arguments.dtype,
            progress=progress,
        )
    print(f"{source.directory} -> {arguments.output}\n{rounding}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # fp32 on the CPU: no TF32, no kernel choice
    from megatron_octo.conversion.verify import TOLERANCE, verify

    text = Path(arguments.text).read_text(encoding="utf-8") if arguments.text else None
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    found = verify(arguments.source, arguments.other or arguments.against, text, arguments.base_weights)
    if arguments.json:
        write_json(arguments.json, found.to_json())
    good = found.max_abs <= tolerance and found.weights_equal is not False
    where = f" by up to {found.weights_max_abs:.3g} in {found.weights_tensor}"
    weights = {
        True: "bit-equal",
        False: "DIFFER" + where,
        None: "of another dtype" + (where if found.weights_max_abs else ", of equal values"),
    }[found.weights_equal]
    first = next((number for number, each in enumerate(found.layers) if not each <= tolerance), None)
    if not good and first is not None:
        print(f"the first layer after which they differ: {first}")
    print(
        f"weights {weights}; logits over {found.tokens} tokens: "
        f"max difference {found.max_abs:.2e}, mean {found.mean_abs:.2e}, "
        f"argmax agrees on {found.argmax_agreement:.2%}; tolerance {tolerance:.0e}: {'ok' if good else 'FAILED'}"
    )
    return 0 if good else 1


def _show(arguments: argparse.Namespace) -> int:
    import json

    from megatron_octo.conversion.show import describe, lines

    found = describe(arguments.source, arguments.vocab_size, arguments.tensors)
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
