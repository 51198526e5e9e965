"""Pieces of an epoch: ranges of documents, overlong documents, weights of a blend."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.indexed import Corpus
from megatron_octo.data.planning.document_stats import BLOCK, lengths_and_labels, sequences
from megatron_octo.data.planning.fim import GROWTH, Fim
from megatron_octo.data.planning.packing import permutation
from megatron_octo.data.planning.paths import Source
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.planning.windows import INPUT, PIECE, cut_back, cut_windows, size_of


@dataclass(frozen=True)
class Survey:
    """Learnable content of one range of documents.

    Attributes:
        begin: the first document.
        sizes: positions of the documents that stay whole, int32 [D]; 0: left out, or cut.
        labels: labels that are learned of these, int32 [D].
        cuts: PIECE [C], by document.
        inputs: tokens of the input that each repeats, 0 for a plain piece, int32 [C].
        learned: documents of which something is learned, bool [D].
        counts: documents, pieces and tokens that are left out or cut, by reason.
    """

    begin: int
    sizes: NDArray[np.int32]
    labels: NDArray[np.int32]
    cuts: np.ndarray
    inputs: NDArray[np.int32]
    learned: NDArray[np.bool_]
    counts: Counter[str]

    @property
    def documents(self) -> int:
        """Documents of which something is learned."""
        return int(np.count_nonzero(self.learned))

    @property
    def positions(self) -> int:
        """Positions of whole documents and pieces."""
        return int(self.sizes.sum(dtype=np.int64) + size_of(self.cuts).sum())


def survey(corpus: Corpus, number: int, source: Source, rules: RowSettings, fim: Fim | None = None) -> Survey:
    """Cut the documents of a range into pieces.

    Args:
        corpus: the data set.
        number: of the source in its group; it goes into the pieces.
        source: the range of documents.
        rules: how documents become rows.
        fim: puts documents that are all target in another order.

    Raises:
        OctoError: the range is empty, nothing in it can be learned, or a document is longer than a row with
            ``overlong="error"``.
    """
    begin, end = source.documents(len(corpus))
    where = f"{source.prefix} {float(source.start):g}:{float(source.end):g}"
    if begin == end:
        raise OctoError(f"no documents in this range: {len(corpus)} in the data set", where=where)
    sizes, labels, whole = lengths_and_labels(corpus, begin, end, rules.loss_on == "all")
    sizes -= 1
    whole &= sizes > 0
    counts: Counter[str] = Counter(skipped_short_documents=int(np.count_nonzero(sizes <= 0)))
    np.maximum(sizes, 0, out=sizes)
    if rules.overlong == "error":
        _refuse_overlong(sizes + GROWTH * whole if fim else sizes, begin, source, rules)
    if fim:
        for start in range(0, len(sizes), BLOCK):
            part = slice(start, start + BLOCK)
            whole[part] &= fim.chosen(np.arange(begin + start, begin + start + len(sizes[part])))
            sizes[part] += GROWTH * whole[part]
            labels[part] += GROWTH * whole[part]
        counts["fim_documents"] = int(np.count_nonzero(whole))
    unlearned = labels == 0
    counts["skipped_pieces_without_target"] = int(np.count_nonzero(unlearned & (sizes > 0)))
    counts["skipped_positions_without_target"] = int(sizes[unlearned].sum(dtype=np.int64))
    sizes[unlearned] = 0
    overlong = np.flatnonzero(sizes > rules.seq_length)
    found = [
        _cut(corpus, number, begin, some, sizes[some], whole[some] & bool(fim), rules, counts)
        for some in (overlong[start : start + BLOCK] for start in range(0, len(overlong), BLOCK))
    ]
    cuts, inputs = _joined(found)
    sizes[overlong] = 0
    learned = sizes > 0
    learned[cuts["document"] - begin] = True
    if not learned.any():
        raise OctoError(
            "nothing to learn: no document has a target token that fits",
            where=where,
            hint="look at the data with python -m megatron_octo.inspect",
        )
    return Survey(begin, sizes, labels, cuts, inputs, learned, counts)


def _joined(found: list[tuple[np.ndarray, NDArray[np.int32]]]) -> tuple[np.ndarray, NDArray[np.int32]]:
    """Concatenate the parts of ``found``; each is freed once copied, because together they may be large."""
    count = sum(len(pieces) for pieces, _ in found)
    cuts, inputs = np.empty(count, PIECE), np.empty(count, np.int32)
    found.reverse()
    done = 0
    while found:
        pieces, repeated = found.pop()
        cuts[done : done + len(pieces)], inputs[done : done + len(pieces)] = pieces, repeated
        done += len(pieces)
    return cuts, inputs


def _refuse_overlong(sizes: NDArray[np.int32], begin: int, source: Source, rules: RowSettings) -> None:
    overlong = sizes > rules.seq_length
    if overlong.any():
        first = int(np.argmax(overlong))
        raise OctoError(
            f"{np.count_nonzero(overlong)} documents are longer than a row; the first has "
            f"{sizes[first] + 1} tokens, a row takes {rules.seq_length + 1}",
            where=f"{source.prefix}, document {begin + first}",
            hint="raise data.seq_length, or set data.overlong to window, split, truncate or skip",
        )


def _cut(
    corpus: Corpus,
    number: int,
    begin: int,
    overlong: NDArray[np.int64],
    sizes: NDArray[np.int32],
    reordered: NDArray[np.bool_],
    rules: RowSettings,
    counts: Counter[str],
) -> tuple[np.ndarray, NDArray[np.int32]]:
    """Cut documents longer than a row; returns PIECE [P] and the input tokens that each repeats, int32 [P]."""
    row, positions = rules.seq_length, sizes.astype(np.int64)
    found = sequences(corpus, begin + overlong)
    if rules.overlong in ("skip", "error"):
        counts["skipped_overlong_documents"] += len(overlong)
        counts["skipped_overlong_tokens"] += int(found.tokens().sum())
        counts["skipped_overlong_targets"] += int(found.targets().sum())
        return np.empty(0, PIECE), np.empty(0, np.int32)
    inputs = np.zeros(len(overlong), np.int64)
    if rules.overlong == "window" and rules.loss_on == "targets":
        inputs = np.where(reordered, 0, found.inputs())
    if rules.overlong == "truncate":
        owner = np.arange(len(overlong))
        first, length = np.zeros(len(overlong), np.int64), np.full(len(overlong), row)
    else:
        plain = np.flatnonzero(inputs == 0)
        owner, first, length = cut_back(positions[plain], row)
        owner = plain[owner]
    context, skip = np.zeros(len(owner), np.int64), np.zeros(len(owner), np.int64)
    if inputs.any():
        framed = np.flatnonzero(inputs)
        windows = cut_windows(positions[framed], inputs[framed], row)
        parts = (framed[windows[0]], *windows[1:])
        both = [np.concatenate(pair) for pair in zip((owner, context, first, length, skip), parts)]
        order = np.argsort(both[0], kind="stable")
        owner, context, first, length, skip = (part[order] for part in both)
    labels = length - skip
    if rules.loss_on == "targets":
        learned = found.learned_between(owner, first + skip + 1, first + length + 1)
        labels = np.where(reordered[owner], labels, learned)
    pieces = np.empty(len(owner), PIECE)
    pieces["source"], pieces["document"], pieces["context"] = number, begin + overlong[owner], context
    pieces["first"], pieces["length"], pieces["skip"], pieces["labels"] = first, length, skip, labels
    pieces["divisor"] = 1
    if rules.norm_target_loss and len(owner):
        pieces["divisor"] = np.maximum(np.bincount(owner, weights=labels), 1).astype(np.int64)[owner]
    kept = labels > 0
    counts["skipped_pieces_without_target"] += int(np.count_nonzero(~kept))
    counts["skipped_positions_without_target"] += int(length[~kept].sum())
    if rules.overlong == "truncate":
        counts["truncated_documents"] += len(overlong)
        counts["truncated_tokens"] += int((positions - row).sum())
        there = positions
        if rules.loss_on == "targets":
            before = found.learned_between(owner, np.ones_like(owner), found.tokens())
            there = np.where(reordered, positions, before)
        counts["truncated_targets"] += int(there.sum() - labels.sum())
    else:
        _count_cuts(pieces, inputs[owner], inputs, row, counts)
    return pieces[kept], inputs[owner][kept].astype(np.int32)


def _count_cuts(
    pieces: np.ndarray, repeats: NDArray[np.int64], inputs: NDArray[np.int64], row: int, counts: Counter[str]
) -> None:
    framed = int(np.count_nonzero(inputs))
    counts["split_documents"] += len(inputs) - framed
    if framed:
        counts["windowed_documents"] += framed
        later = pieces[(repeats > 0) & (pieces["first"] >= repeats)]
        counts["window_repeated_positions"] += int(
            later["skip"].sum(dtype=np.int64) + later["context"].sum(dtype=np.int64)
        )
        counts["window_input_tokens_cut"] += int(np.maximum(inputs - 1 - row // INPUT, 0).sum())


def shares(sources: Sequence[Source], surveys: Sequence[Survey]) -> list[Fraction]:
    """Compute how many documents each source gives to an epoch, exactly.

    Weights are proportions of positions. The source with the largest weight for its size gives all of its documents,
    each once; the others give what the proportion asks for.
    """
    density = [source.weight / found.positions for source, found in zip(sources, surveys, strict=True)]
    return [found.documents * dense / max(density) for found, dense in zip(surveys, density, strict=True)]


def draw(found: Survey, share: Fraction, epoch: int, *key: str | int) -> NDArray[np.uint8] | None:
    """Draw how often each document comes in an epoch, uint8 [D]; None: each once.

    Documents come from an endless stream of permutations, so that all are seen before one is seen again.
    """
    documents = found.documents
    if share == documents:
        return None
    begin, end = int(epoch * share), int((epoch + 1) * share)
    times = np.zeros(documents, np.uint8)
    for number in range(begin // documents, -(-end // documents)):
        order = permutation(documents, *key, number)
        start = number * documents
        times[order[max(begin - start, 0) : end - start]] += 1
    drawn = np.zeros(len(found.learned), np.uint8)
    drawn[found.learned] = times
    return drawn
