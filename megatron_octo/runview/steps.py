"""Rows of one step of a run, the documents in them, and the text of a row."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.data.view.row_view import print_segments
from megatron_octo.runfiles.samples import StepSamples, kept_path, read_kept, samples_of_step
from megatron_octo.runfiles.steps import StepLine, read_steps


def print_step(run: Path, step: int, row: int | None, tokenizer: str | None, console: Console) -> None:
    """Print the rows and documents of a step, or the text of its row number ``row`` (from 0).

    A step at which the loss guard stopped is shown from the batch that was kept.

    Args:
        run: the run directory.
        step: number of the step.
        row: number of a row, or None for all.
        console: takes the output.
        tokenizer: to decode with; default: the run's.

    Raises:
        OctoError: there is no such step or row, or the data has changed since.
    """
    found, why = _find(run, step)
    console.print(f"[bold]step {step}[/bold], attempt {found.attempt}: {len(found.rows)} rows", highlight=False)
    line = _metrics(run, step)
    if line:
        console.print(
            f"loss {line.get('loss')}, gradient norm {line.get('grad_norm')}, lr {line.get('lr')}",
            highlight=False,
        )
    if found.skipped or why:
        reason = escape(printable(why or (line and line.get("skipped"))))
        console.print(f"[bold red]{'skipped' if found.skipped else 'stopped'}[/bold red]: {reason}")
    if row is None:
        _print_table(found, console)
        return
    if not 0 <= row < len(found.rows):
        raise OctoError(f"no row {row}: the step has {len(found.rows)}, from 0", where="--row")
    default = run / "tokenizer.json"
    decoder = Tokenizer(tokenizer or str(default)) if tokenizer or default.exists() else None
    epoch, number = found.rows[row]
    console.print(f"row {row} of the step: epoch {epoch}, row {number:,}", highlight=False)
    print_segments(found.documents[row], found.seq_length, found.fim_tokens, decoder, console)


def _find(run: Path, step: int) -> tuple[StepSamples, str | None]:
    kept = kept_path(run, step)
    try:
        return samples_of_step(run, step), None
    except OctoError:
        if not kept.exists():
            raise
    return read_kept(kept)


def _metrics(run: Path, step: int) -> StepLine | None:
    """Return the last line of the step."""
    return next((line for line in reversed(read_steps(run)) if line["step"] == step), None)


def _print_table(found: StepSamples, console: Console) -> None:
    table = Table("row", "epoch, row", "documents (tokens, targets)", box=None, pad_edge=False)
    for number, ((epoch, row), documents) in enumerate(zip(found.rows, found.documents, strict=True)):
        texts = []
        for segment in documents:
            about = f"{segment.document:,} ({len(segment.weights):,}, {int(np.count_nonzero(segment.weights)):,}"
            about += f", {segment.context:,} repeated" if segment.context else ""
            about += ", fill in the middle" if segment.fim else ""
            name = f"{segment.source}:" if len(found.sources) > 1 else ""
            texts.append(f"{name}{about})")
        table.add_row(str(number), f"{epoch}, {row:,}", ", ".join(texts))
    for number, source in enumerate(found.sources):
        console.print(f"data set {number}: {source}", highlight=False)
    console.print(table)
