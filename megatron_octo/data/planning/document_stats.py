"""Lengths and targets of documents, block by block: no array is longer than the result.

A plan of a hundred million documents has to fit beside a training run, so nothing here makes running sums over
a whole data set, as :class:`megatron_octo.data.dataset.indexed.IndexedDataset` does for its own questions.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.ragged import running_sum
from megatron_octo.data.dataset.indexed import CONTEXT, Corpus, IndexedDataset, PairedDataset

BLOCK = 1 << 20  # documents looked at in one go


@dataclass(frozen=True)
class Sequences:
    """Sequences of some documents.

    Attributes:
        lengths: tokens of each sequence, int64 [S].
        learned: whether it is a target, bool [S].
        edges: first sequence of each document and one past the last, int64 [D+1].
    """

    lengths: NDArray[np.int64]
    learned: NDArray[np.bool_]
    edges: NDArray[np.int64]

    def starts(self) -> NDArray[np.int64]:
        """Return the tokens before each sequence, and all of them, int64 [S+1]."""
        return running_sum(self.lengths)

    def tokens(self) -> NDArray[np.int64]:
        """Return the tokens of each document, int64 [D]."""
        return np.diff(self.starts()[self.edges])

    def targets(self) -> NDArray[np.int64]:
        """Return the target tokens of each document, int64 [D]."""
        return np.diff(running_sum(self.lengths * self.learned)[self.edges])

    def inputs(self) -> NDArray[np.int64]:
        """Count the context tokens before the first target of each document, all if there is none, int64 [D]."""
        starts = self.starts()
        # The first sequence at or behind each place that holds a target, or the end of everything.
        sequence = np.arange(len(self.lengths) + 1)
        holds = np.append(self.learned & (self.lengths > 0), True)
        following = np.minimum.accumulate(np.where(holds, sequence, len(self.lengths))[::-1])[::-1]
        first = np.minimum(following[self.edges[:-1]], self.edges[1:])
        return starts[first] - starts[self.edges[:-1]]

    def begin_with_target(self) -> NDArray[np.bool_]:
        """Return whether the first token of each document is a target, bool [D]."""
        first = np.minimum(self.edges[:-1], max(len(self.lengths) - 1, 0))
        found: NDArray[np.bool_]
        if len(self.lengths) and not np.any(self.lengths[first] == 0):
            found = self.learned[first] & (np.diff(self.edges) > 0)
        else:
            found = (self.inputs() == 0) & (self.tokens() > 0)
        return found

    def learned_between(
        self, owner: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count the target tokens among tokens first .. last-1 of document ``owner[i]``, int64 [P]."""
        starts, targets = self.starts(), running_sum(self.lengths * self.learned)
        begin = starts[self.edges[owner]]
        learned = np.append(self.learned, False)  # one past the last token lies in no sequence

        def before(token: NDArray[np.int64]) -> NDArray[np.int64]:
            sequence = np.searchsorted(starts, token, side="right") - 1
            inside: NDArray[np.int64] = (token - starts[sequence]) * learned[sequence]
            return targets[sequence] + inside

        return before(begin + last) - before(begin + first)


def sequences(corpus: Corpus, documents: NDArray[np.int64]) -> Sequences:
    """Look up the sequences of ``documents``, int64 [D]. An older pair of files has two per document."""
    if isinstance(corpus, PairedDataset):
        parts = [sequences(part, documents).tokens() for part in (corpus.inputs, corpus.targets)]
        lengths = np.stack(parts, axis=1).reshape(-1)
        learned = np.tile([False, True], len(documents))
        return Sequences(lengths, learned, 2 * np.arange(len(documents) + 1))
    assert isinstance(corpus, IndexedDataset)
    index = corpus.document_index
    begin = index[documents]
    edges = running_sum(index[documents + 1] - begin)
    chosen = np.repeat(begin - edges[:-1], np.diff(edges)) + np.arange(edges[-1])
    found = Sequences(corpus.lengths[chosen].astype(np.int64), _learned(corpus, chosen), edges)
    _release(corpus)
    return found


def blocks(corpus: Corpus, begin: int, end: int) -> Iterator[tuple[int, Sequences]]:
    """Yield documents begin .. end-1 in blocks: the first document of each, and its sequences."""
    for first in range(begin, end, BLOCK):
        last = min(first + BLOCK, end)
        if isinstance(corpus, IndexedDataset):
            edges = corpus.document_index[first : last + 1].astype(np.int64)
            inside = slice(int(edges[0]), int(edges[-1]))
            lengths = corpus.lengths[inside].astype(np.int64)
            yield first, Sequences(lengths, _learned(corpus, inside), edges - edges[0])
            _release(corpus)
        else:
            yield first, sequences(corpus, np.arange(first, last))


def _release(corpus: IndexedDataset) -> None:
    """Release the mapped pages of the index that were read; the system keeps them in its cache."""
    base: object = corpus.lengths
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _learned(corpus: IndexedDataset, where: slice | NDArray[np.int64]) -> NDArray[np.bool_]:
    if corpus.modes is None:
        return np.ones(len(corpus.lengths[where]), bool)
    learned: NDArray[np.bool_] = corpus.modes[where] != CONTEXT
    return learned


def lengths_and_labels(
    corpus: Corpus, begin: int, end: int, everything: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Return what planning needs of documents begin .. end-1.

    Args:
        corpus: the data set.
        begin: first document.
        end: one past the last.
        everything: context is learned, too.

    Returns:
        tokens of each document, int32 [D]; labels that are learned, the targets behind its first token, int32 [D];
        whether all of its tokens are targets, bool [D].
    """
    count = end - begin
    tokens, labels, whole = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, bool)
    for first, block in blocks(corpus, begin, end):
        part = slice(first - begin, first - begin + len(block.edges) - 1)
        size, targets = block.tokens(), block.targets()
        tokens[part], whole[part] = size, targets == size
        if everything:
            labels[part] = np.maximum(size - 1, 0)
        else:
            labels[part] = targets - block.begin_with_target()
    return tokens, labels, whole
