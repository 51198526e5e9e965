"""Rows and batches for training: the content of row r of epoch e, the same on every machine and topology."""

import functools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.data.planning.paths import Group
from megatron_octo.data.planning.planner import AHEAD, Planner
from megatron_octo.data.planning.row_plan import Plan
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.planning.windows import source_tokens
from megatron_octo.recipe.schema import Recipe


@dataclass(frozen=True)
class Position:
    """Position of a run in its data: ``row`` is the next one of ``epoch``."""

    epoch: int = 0
    row: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows laid end to end; T = number of rows * seq_length, D segments.

    Attributes:
        tokens: int64 [T].
        labels: int64 [T]; a segment's labels are its own tokens, one further on.
        positions: int64 [T]; from 0 in every document, in every piece or window of a long one, and in padding.
        weights: float32 [T]; 0 where nothing is learned (context, what a window repeats, padding).
        boundaries: int32 [D+1]; running sum of the segments' lengths from 0 to T. Padding at the end
            of a row is a segment of its own.
        targets: labels with a weight above 0.
        used: positions that are not padding.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    weights: NDArray[np.float32]
    boundaries: NDArray[np.int32]
    targets: int
    used: int


@dataclass(frozen=True)
class Segment:
    """Document, or a piece of one, as a row holds it.

    Attributes:
        source, document: number of the data set in the group, and of the document in it.
        tokens: n + 1 tokens, all but the last are inputs and all but the first are labels, int32 or int64 [n+1].
        weights: of the labels, float32 [n].
        context: how many tokens of the document's input stand in front, repeated.
        fim: whether the document is in the order of fill in the middle.
    """

    source: int
    document: int
    tokens: NDArray[np.integer]
    weights: NDArray[np.float32]
    context: int = 0
    fim: bool = False


class RowStream:
    """Packed rows of a group of data sets.

    Args:
        group: data sets, ranges and weights (:mod:`megatron_octo.data.planning.paths`).
        settings: how they become rows.

    Attributes:
        vocab_size: the largest that a manifest names, None if there is no manifest.
        tokenizer_digest: of the manifests, None if there is none.
        ends: token and id that end a document in the data, one for each choice of preprocess --eod-token.
        corpora_digest: identity of all that the rows depend on.
        fim_tokens: ids of the tokens of fill in the middle, None if it is off.

    Raises:
        OctoError: a data set is missing or damaged, data sets were made with different tokenizers, a
            range holds nothing to learn, a document is overlong and that is an error, or there is nothing to
            fill in or no token for it.
    """

    def __init__(self, group: Group, settings: RowSettings):
        self.group, self.seed = group, settings.seed
        self._planner = Planner(group, settings)
        self._settings, self._corpora = settings, self._planner.corpora
        self.vocab_size, self.tokenizer_digest = self._planner.vocab_size, self._planner.tokenizer_digest
        self.ends = self._planner.ends
        self.corpora_digest, self.fim_tokens = self._planner.corpora_digest, self._planner.fim_tokens
        self._begin = [
            source.documents(len(corpus))[0] for source, corpus in zip(group.sources, self._corpora, strict=True)
        ]
        self._plan = functools.lru_cache(maxsize=2)(self._planner.plan)
        self._fim = functools.lru_cache(maxsize=64)(self._planner.fim)
        self._asked_ahead = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._plan(0)  # bad data is an error at the start

    def rows(self, epoch: int) -> int:
        """Return the number of rows of an epoch."""
        return self._plan(epoch).rows

    def fill(self, epoch: int) -> float:
        """Return the used positions of an epoch, as a fraction of all."""
        return float(self._plan(epoch).summary["fill"])

    def summary(self, epoch: int) -> dict[str, Any]:
        """Return counts for logs: documents, rows, pieces, positions, targets, fill; what was cut, repeated or skipped.

        Counts of overlong and skipped documents are of the whole ranges, whatever part of them the epoch draws.
        """
        return dict(self._plan(epoch).summary)

    def take(self, position: Position, count: int, more: int | None = None) -> tuple[list[tuple[int, int]], Position]:
        """Return the next ``count`` rows as (epoch, row), over ends of epochs, and the position behind them.

        Args:
            position: of the first row.
            count: number of rows.
            more: rows that will be taken afterwards (None: unknown); an epoch that they do not reach is not planned.
        """
        epoch, row = position.epoch, position.row
        taken: list[tuple[int, int]] = []
        while len(taken) < count:
            if row >= self.rows(epoch):
                epoch, row = epoch + 1, 0
                continue
            stop = min(self.rows(epoch), row + count - len(taken))
            taken += [(epoch, number) for number in range(row, stop)]
            row = stop
        if 2 * row >= self.rows(epoch) and (more is None or row + more > self.rows(epoch)):
            self._plan_ahead(epoch + 1)
        return taken, Position(epoch, row)

    def _plan_ahead(self, epoch: int) -> None:
        """Start making a large plan before it is needed, in one process of all that share the cache.

        Every rank may call this at any time: a lock file decides which of them starts the process, so no collective
        is needed, and the others read what it wrote.
        """
        if self._asked_ahead >= epoch or len(self._plan(epoch - 1).order) < AHEAD:
            return
        self._asked_ahead = epoch
        if self._child is not None:
            self._child.poll()
        self._child = self._planner.ahead(epoch) or self._child

    def forget(self, before: int) -> None:
        """Remove the plans of epochs before one, except the first, which every start describes."""
        for epoch in range(1, before):
            self._planner.forget(epoch)

    def weight(self, rows: Sequence[tuple[int, int]]) -> float:
        """Sum the label weights of rows, from the plan alone: no token is read."""
        return float(sum(float(self._plan(epoch).weights[row]) for epoch, row in rows))

    def segments(self, epoch: int, row: int) -> list[Segment]:
        """Read the documents and pieces of a row."""
        plan = self._plan(epoch)
        return [self._segment(plan, epoch, int(item)) for item in plan.order[plan.offsets[row] : plan.offsets[row + 1]]]

    def _segment(self, plan: Plan, epoch: int, item: int) -> Segment:
        piece: np.void | None = None
        if item < plan.bases[-1]:
            source = int(np.searchsorted(plan.bases, item, side="right")) - 1
            document = self._begin[source] + item - int(plan.bases[source])
        else:
            piece = plan.cuts[item - int(plan.bases[-1])]
            source, document = int(piece["source"]), int(piece["document"])
        tokens, learned = self._corpora[source].document(document)
        fim, reordered = self._fim(source, epoch), False
        if fim is not None and len(tokens) > 1 and learned.all() and fim.chosen(np.array([document]))[0]:
            reordered, tokens = True, fim.apply(tokens, document)
            learned = np.ones(len(tokens), bool)
        inputs = int(np.argmax(learned)) if piece is not None and piece["context"] else 0
        learned = learned | (self._settings.loss_on == "all")
        divisor, context = 1, 0
        if piece is None:
            learned = learned[1:]
            if self._settings.norm_target_loss:
                divisor = int(np.count_nonzero(learned))
        else:
            chosen, context, divisor = (
                source_tokens(piece, inputs),
                int(piece["context"]),
                int(piece["divisor"]),
            )
            tokens, learned = tokens[chosen], learned[chosen][1:]
            learned[: context + int(piece["skip"])] = False
        return Segment(source, document, tokens, learned.astype(np.float32) / np.float32(divisor), context, reordered)

    def batch(self, rows: Sequence[tuple[int, int]]) -> Batch:
        """Read rows into a batch."""
        width = self._settings.seq_length
        size = len(rows) * width
        tokens, labels = (
            np.full(size, self._planner.pad, np.int64),
            np.full(size, self._planner.pad, np.int64),
        )
        positions, weights = np.empty(size, np.int64), np.zeros(size, np.float32)
        count = np.arange(width)
        boundaries = [0]
        used = 0
        for number, (epoch, row) in enumerate(rows):
            place = number * width
            for segment in self.segments(epoch, row):
                length = len(segment.weights)
                part = slice(place, place + length)
                tokens[part], labels[part] = segment.tokens[:-1], segment.tokens[1:]
                weights[part] = segment.weights
                positions[part] = count[:length]
                place += length
                used += length
                boundaries.append(place)
            end = (number + 1) * width
            if place < end:
                positions[place:end] = count[: end - place]
                boundaries.append(end)
        return Batch(
            tokens,
            labels,
            positions,
            weights,
            np.array(boundaries, np.int32),
            int(np.count_nonzero(weights)),
            used,
        )


def open_rows(recipe: Recipe, group: Group, fim_rate: float, cache: Path) -> RowStream:
    """Open the rows of a group of data sets, as every rank of a run reads them."""
    return RowStream(group, RowSettings.from_recipe(recipe, cache, fim_rate))
