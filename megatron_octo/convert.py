"""``python -m megatron_octo.convert to-hf | from-hf | to-bigcode | from-bigcode | reshard | verify | show``."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.common.files import write_json
from megatron_octo.conversion.arguments import (
    build_parser as build_parser,  # submit checks its arguments with it
)
from megatron_octo.conversion.arguments import parse


def main(argv: list[str] | None = None) -> int:
    """Run a conversion command; returns its exit code."""
    arguments = parse(argv)
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "to-hf": _to_hf,
        "to-bigcode": _to_bigcode,
        "verify": _verify,
        "show": _show,
    }
    return commands.get(arguments.command, _to_checkpoint)(arguments)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal, and nothing in a log."""
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


def _shard_bytes(arguments: argparse.Namespace) -> int:
    from megatron_octo.conversion.engine.job import SHARD_BYTES

    return arguments.shard_size or SHARD_BYTES


def _to_hf(arguments: argparse.Namespace) -> int:
    from megatron_octo.conversion.writers.push import open_hub, push
    from megatron_octo.conversion.writers.renew import renew

    hub = open_hub(arguments.push) if arguments.push else None
    output = Path(arguments.output)
    if arguments.renew:
        keys = ("dtype", "adapter", "tokenizer", "base_weights", "vocab_size")
        asked = {key: getattr(arguments, key) for key in keys}
        if arguments.eod_token:
            asked["eod_token"] = arguments.eod_token
        if not renew(arguments.source, output, partial(_export, arguments), asked):
            print(f"{output} is of the newest checkpoint already")
    else:
        _export(arguments, output)
    if arguments.verify and not _compare(arguments, arguments.source, arguments.output):
        return 1
    if hub:
        print(push(hub, output, arguments.push, private=not arguments.public))
    return 0


def _export(arguments: argparse.Namespace, output: Path) -> None:
    from megatron_octo.conversion.readers.open_weights import check_options
    from megatron_octo.conversion.writers.peft import to_peft
    from megatron_octo.conversion.writers.to_hf import to_hf

    # --push and --verify go on with the result of an earlier attempt.
    reuse = bool(arguments.push or arguments.verify) and not arguments.renew
    if arguments.adapter:
        print(f"adapters of {to_peft(arguments.source, output, reuse=reuse)} -> {arguments.output}")
        return
    check_options([arguments.source], arguments.vocab_size, arguments.base_weights)
    with _progress("to Hugging Face") as progress:
        done = to_hf(
            arguments.source,
            output,
            dtype=arguments.dtype,
            tokenizer=arguments.tokenizer,
            eod_token=arguments.eod_token,
            base=arguments.base_weights,
            vocab_size=arguments.vocab_size,
            progress=progress,
            shard_bytes=_shard_bytes(arguments),
            reuse=reuse,
        )
    said = "it is there already, of this input and these options" if done.reused else done.rounding
    print(f"{done.source} -> {arguments.output}\n{said}", flush=True)


def _open(arguments: argparse.Namespace) -> Any:
    from megatron_octo.conversion.readers.open_weights import check_options, open_weights

    vocab_size, base = getattr(arguments, "vocab_size", None), getattr(arguments, "base_weights", None)
    expected = {"from-hf": "huggingface", "from-bigcode": "bigcode"}.get(arguments.command)
    source = open_weights(arguments.source, stream=True, vocab_size=vocab_size, base=base, expected=expected)
    check_options([arguments.source], vocab_size, base)
    return source


def _to_checkpoint(arguments: argparse.Namespace) -> int:
    import yaml

    from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint

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
            shard_bytes=_shard_bytes(arguments),
        )
    print(f"{source.directory} -> {arguments.output}\n{rounding}")
    if arguments.command != "reshard":
        model = source.manifest.model.model_dump()
        print(f"The recipe's model section:\n\n{yaml.safe_dump({'model': model}, sort_keys=False)}")
    return 0


def _to_bigcode(arguments: argparse.Namespace) -> int:
    from megatron_octo.conversion.writers.to_bigcode import to_bigcode

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
    from megatron_octo.conversion.readers.open_weights import check_options

    other = arguments.other or arguments.against
    check_options([arguments.source, other], arguments.vocab_size, arguments.base_weights)
    return 0 if _compare(arguments, arguments.source, other) else 1


def _text(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OctoError(f"no UTF-8 at byte {error.start}", where=path, hint="give a text file") from None
    if not text:
        raise OctoError("this file is empty", where=path, hint="give a text of some hundred words")
    return text


def _compare(arguments: argparse.Namespace, source: str, other: str) -> bool:
    """Compare and print the result; returns whether the copies agree."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # fp32 on the CPU: no TF32, no kernel choice
    from megatron_octo.conversion.proof.verify import TOLERANCE, verify

    file, report = getattr(arguments, "text", None), getattr(arguments, "json", None)
    text = _text(file) if file else None
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    found = verify(source, other, text, arguments.base_weights, arguments.vocab_size)
    if report:
        write_json(report, found.to_json())
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
    return good


def _show(arguments: argparse.Namespace) -> int:
    import json

    from megatron_octo.conversion.proof.show import describe, lines
    from megatron_octo.conversion.readers.open_weights import check_options

    found = describe(arguments.source, arguments.vocab_size, arguments.tensors)
    check_options([arguments.source], arguments.vocab_size, None)
    try:
        print(json.dumps(found, indent=1) if arguments.json else "\n".join(lines(found)), flush=True)
    except BrokenPipeError:  # head or less has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
