"""Printed report of a data set: counts, histogram, checks, a document with its targets marked."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.common.terminal import printable
from megatron_octo.data.dataset.indexed import IndexedDataset, PairedDataset, open_corpus
from megatron_octo.data.dataset.manifest import Manifest, checked_manifest, read_manifest
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.data.view.differences import compare
from megatron_octo.data.view.row_view import print_row

_BAR = 22  # characters of the longest bar
_SHOWN = 6000  # characters of a document that are shown


def report(
    prefix: str,
    *,
    sample: int | None,
    tokenizer: str | None,
    full: bool,
    console: Console,
    against: str | None = None,
    row: int | None = None,
    epoch: int = 0,
    settings: RowSettings | None = None,
) -> bool:
    """Print what a data set holds.

    Args:
        prefix: the data set.
        sample: number of the document to show, None for none.
        tokenizer: to decode it with; by default the manifest's, if it is still there.
        full: read every byte and compare all digests.
        console: where to print.
        against: another data set, to compare with; None for none.
        row: which packed row to show; None for none.
        epoch: the epoch of that row.
        settings: how rows are made; needed for ``row``.

    Returns:
        Whether all checks were good, and the other data set has the same documents.

    Raises:
        OctoError: the data set cannot be opened, there is no such document, or the tokenizer is another one.
    """
    corpus = open_corpus(prefix)
    manifest = checked_manifest(prefix, corpus.digest()) if isinstance(corpus, IndexedDataset) else None
    if sample is not None and not 0 <= sample < len(corpus):
        raise OctoError(f"no document {sample}: there are {len(corpus)}, from 0", where=prefix)
    lengths, targets = corpus.document_lengths(), corpus.document_targets()
    _print_counts(corpus, manifest, lengths, targets, console)
    _print_histogram(lengths, console)
    problems = list(_problems(corpus, manifest, full))
    for problem in problems:
        console.print(f"[red]bad:[/red] {escape(problem)}", highlight=False, soft_wrap=True)
    if not problems:
        depth = "every byte was read" if full else "sizes, pointers and index; --full reads every byte"
        console.print(f"checks: good ({depth})", highlight=False)
    known = None
    if tokenizer is not None or sample is not None or against is not None or row is not None:
        known = _tokenizer(manifest, tokenizer, prefix)
    same = True
    if against is not None:
        same, said = _other_tokenizer(manifest, against) or compare(prefix, against, known)
        style = "" if same else "[red]different:[/red] "
        console.print(f"against {escape(against)}: {style}{escape(said)}", highlight=False, soft_wrap=True)
    if sample is not None:
        _print_document(corpus, sample, known, console)
    if row is not None and settings is not None:
        found = replace(settings, tokenizer=known.path if known else None)
        print_row(prefix, row, epoch, found, known, console)
    return same and not problems


def _other_tokenizer(manifest: Manifest | None, against: str) -> tuple[bool, str] | None:
    """Return a result for data sets of two tokenizers, whose ids cannot be compared; None if they have the same."""
    other = read_manifest(against)
    if manifest is None or other is None or manifest.tokenizer.digest == other.tokenizer.digest:
        return None
    said = "made with another tokenizer, so the ids mean other texts and are not compared"
    here, there = (f"{each.tokenizer.path} ({each.tokenizer.digest})" for each in (manifest, other))
    return False, f"{said}: {here} here, {there} there"


def _print_counts(
    corpus: IndexedDataset | PairedDataset,
    manifest: Manifest | None,
    lengths: NDArray[np.int64],
    targets: NDArray[np.int64],
    console: Console,
) -> None:
    total, learned = int(lengths.sum()), int(targets.sum())
    table = Table(show_header=False, box=None, title=escape(printable(corpus.prefix)), title_justify="left")
    table.add_row("documents", f"{len(corpus):,}")
    table.add_row("tokens", f"{total:,}")
    table.add_row("targets", f"{learned:,} ({learned / max(total, 1):.1%})")
    if len(lengths):
        middle, most = np.percentile(lengths, [50, 90]).astype(int)
        table.add_row(
            "length", f"min {lengths.min():,}  median {middle:,}  90 % {most:,}  max {lengths.max():,} tokens"
        )
    table.add_row("without target", f"{np.count_nonzero(targets == 0):,} documents")
    if manifest is None:
        table.add_row("manifest", "none")
    else:

        def add(name: str, text: str) -> None:
            table.add_row(name, escape(printable(text)))

        counts = ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped.items())
        add("skipped", counts or "0")
        for reason, count in manifest.notes.items():
            add("note", f"{count:,} {reason}")
        made = manifest.tokenizer
        add("tokenizer", f"{made.vocab_size:,} ids, end {made.eod_token!r} = {made.eod_id}, {made.path}")
        add("made by", f"version {manifest.version}, format {manifest.options.get('format')}")
    console.print(table, highlight=False)


def _print_histogram(lengths: NDArray[np.int64], console: Console) -> None:
    if not len(lengths):
        return
    bins = np.ceil(np.log2(np.maximum(lengths, 1))).astype(int)
    counts = np.bincount(bins)
    tokens = np.bincount(bins, weights=lengths)
    console.print("tokens per document", highlight=False)
    for power in range(int(np.flatnonzero(counts)[0]), len(counts)):
        bar = "█" * round(_BAR * counts[power] / counts.max())
        share = tokens[power] / max(lengths.sum(), 1)
        console.print(
            f"  ≤ {2**power:>9,} {counts[power]:>11,} documents {share:>6.1%} of the tokens  {bar}",
            highlight=False,
        )


def _problems(corpus: IndexedDataset | PairedDataset, manifest: Manifest | None, full: bool) -> Iterator[str]:
    if manifest is not None:
        found = (len(corpus), corpus.tokens, int(corpus.document_targets().sum()))
        named = (manifest.documents, manifest.tokens, manifest.targets)
        if found != named:
            yield f"documents, tokens, targets are {found}, the manifest says {named}"
    if not full:
        return
    yield from corpus.problems(manifest.tokenizer.vocab_size if manifest else None)
    if manifest is not None:
        for name, record in manifest.outputs.items():
            path = Path(f"{corpus.prefix}.{name}")
            if (digest := digest_file(path)) != record.digest:
                yield f"{path} has digest {digest}, the manifest says {record.digest}"


def _tokenizer(manifest: Manifest | None, path: str | None, prefix: str) -> Tokenizer | None:
    recorded = manifest.tokenizer if manifest else None
    if path is None:
        if recorded is None or not Path(recorded.path).is_file():
            return None
        path = recorded.path
    tokenizer = Tokenizer(path, recorded.eod_token if recorded else None)
    if recorded is not None and tokenizer.digest != recorded.digest:
        raise OctoError(
            f"this data set was made with another tokenizer ({recorded.digest}, found {tokenizer.digest})",
            where=path,
            hint=f"{prefix}.json says which; name it with --tokenizer",
        )
    return tokenizer


def _print_document(
    corpus: IndexedDataset | PairedDataset, index: int, tokenizer: Tokenizer | None, console: Console
) -> None:
    """Print a document; targets are green on a terminal, and each run has a heading."""
    tokens, is_target = corpus.document(index)
    console.print(f"document {index}: {len(tokens):,} tokens, {int(is_target.sum()):,} targets", highlight=False)
    edges = [0, *(np.flatnonzero(np.diff(is_target)) + 1).tolist(), len(tokens)] if len(tokens) else []
    for begin, end in pairwise(edges):
        learned = bool(is_target[begin])
        ids = tokens[begin:end].tolist()
        text = printable(tokenizer.decode(ids), keep="\n\t") if tokenizer else " ".join(map(str, ids))
        if len(text) > _SHOWN:
            half = _SHOWN // 2
            text = f"{text[:half]}\n... {len(text) - _SHOWN:,} characters ...\n{text[-half:]}"
        name = "target, learned" if learned else "context, not learned"
        style = "green" if learned else "dim"
        console.print(Text(f"--- {name}: {end - begin:,} tokens ---", style="bold"))
        console.print(Text(text, style=style), soft_wrap=True)
    if tokenizer is None:
        console.print("(ids: no tokenizer is known, name it with --tokenizer)", highlight=False)
