"""Printed view of a packed row: documents, learned tokens, positions, windows and fill in the middle."""

import tempfile
from dataclasses import replace
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.text import Text

from megatron_octo.common.errors import OctoError
from megatron_octo.common.terminal import printable
from megatron_octo.data.planning.fim import FimTokens
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.row_stream import RowStream, Segment
from megatron_octo.data.text.tokenizer import Tokenizer

_SHOWN = 1500  # characters of a run that are shown
STYLES = {"target": "green", "context": "dim", "repeated": "dim cyan", "fim": "bold magenta"}


def open_data_set(prefix: str, settings: RowSettings) -> RowStream:
    """Open the rows of a whole data set, planned as a run with these settings plans them."""
    return RowStream(read_group(f"inspect: 1.0 0:1 {prefix}"), settings)


def print_row(
    prefix: str, row: int, epoch: int, settings: RowSettings, tokenizer: Tokenizer | None, console: Console
) -> None:
    """Plan the data set in a temporary folder, and print row ``row`` of an epoch.

    Raises:
        OctoError: there is no such row, or no plan can be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        stream = open_data_set(prefix, replace(settings, cache_dir=folder))
        rows = stream.rows(epoch)
        if not 0 <= row < rows:
            raise OctoError(f"no row {row}: epoch {epoch} has {rows:,}, from 0", where=prefix)
        segments = stream.segments(epoch, row)
        marks = stream.fim_tokens
    used = sum(len(segment.weights) for segment in segments)
    console.print(
        f"row {row:,} of {rows:,} of epoch {epoch}: {len(segments)} documents or pieces, "
        f"{used:,} of {settings.seq_length:,} positions ({used / settings.seq_length:.2%})",
        highlight=False,
    )
    print_segments(segments, settings.seq_length, marks, tokenizer, console)


def print_segments(
    segments: list[Segment],
    seq_length: int,
    marks: FimTokens | None,
    tokenizer: Tokenizer | None,
    console: Console,
) -> None:
    """Print the documents of a row, one after the other, and its padding."""
    legend = Text("colours: ")
    for name, style in STYLES.items():
        legend.append(name, style=style).append("  ")
    console.print(legend)
    place = 0
    for number, segment in enumerate(segments):
        _print_segment(number, segment, place, marks, tokenizer, console)
        place += len(segment.weights)
    if place < seq_length:
        console.print(Text(f"--- padding: {seq_length - place:,} positions ---", style="bold"))


def _print_segment(
    number: int,
    segment: Segment,
    place: int,
    marks: FimTokens | None,
    tokenizer: Tokenizer | None,
    console: Console,
) -> None:
    length = len(segment.weights)
    learned = int(np.count_nonzero(segment.weights))
    about = f"--- {number}: document {segment.document:,}, row {place:,}-{place + length - 1:,}"
    about += f", positions 0-{length - 1:,}, {learned:,} targets"
    if segment.context:
        about += f", {segment.context:,} tokens of its input repeated"
    if segment.fim:
        about += ", fill in the middle"
    console.print(Text(f"{about} ---", style="bold"))
    # The last token is only a label; a token is a target if the position before it is learned.
    kinds = np.where(np.append(False, segment.weights > 0), "target", "context").astype("<U8")
    kinds[: segment.context] = "repeated"
    if segment.fim and marks is not None:
        kinds[np.isin(segment.tokens, [marks.prefix, marks.suffix, marks.middle])] = "fim"
    edges = [0, *(np.flatnonzero(kinds[1:] != kinds[:-1]) + 1).tolist(), length + 1]
    shown = Text()
    for begin, end in pairwise(edges):
        ids = segment.tokens[begin:end].tolist()
        text = printable(tokenizer.decode(ids), keep="\n\t") if tokenizer else " ".join(map(str, ids)) + " "
        if len(text) > _SHOWN:
            half = _SHOWN // 2
            text = f"{text[:half]} ... {len(text) - _SHOWN:,} characters ... {text[-half:]}"
        shown.append(text, style=STYLES[str(kinds[begin])])
    console.print(shown, soft_wrap=True)
