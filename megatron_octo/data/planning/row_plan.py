"""Plan of an epoch: which documents, and which pieces of long ones, go into which row."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.data.planning.blend import Survey
from megatron_octo.data.planning.fill_gaps import Poured, pour
from megatron_octo.data.planning.packing import STEP, Packing
from megatron_octo.data.planning.settings import RowSettings
from megatron_octo.data.planning.windows import PIECE, size_of


@dataclass(frozen=True)
class Plan:
    """Rows of an epoch, in a form that takes four bytes per document.

    Attributes:
        order: items row after row, uint32 [N]. Items below ``bases[-1]`` are whole documents: item ``i`` of source
            ``s`` is the document ``i - bases[s]`` of its range. The others are ``cuts[item - bases[-1]]``.
        offsets: first item of each row and one past the last, int64 [R+1].
        cuts: pieces of documents that are longer than a row, PIECE [C].
        weights: sum of the label weights of each row, float64 [R].
        bases: documents in the ranges of the sources before, and of all, int64 [sources + 1].
        summary: counts for logs.
    """

    order: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    cuts: np.ndarray
    weights: NDArray[np.float64]
    bases: NDArray[np.int64]
    summary: dict[str, Any]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.weights)


def build_plan(
    surveys: list[Survey],
    times: Sequence[NDArray[np.uint8] | None],
    rules: RowSettings,
    counts: dict[str, int],
    *key: str | int,
) -> Plan:
    """Pack the documents of an epoch into rows.

    Args:
        surveys: what can be learned of each source; emptied on the way, to save memory.
        times: how often each document of a source comes, uint8 [D]; None: each once.
        rules: seq_length and more.
        counts: go into the summary.
        key: names the random stream (seed, epoch).
    """
    bases = np.cumsum([0] + [len(found.sizes) for found in surveys], dtype=np.int64)
    cuts, inputs = _drawn_cuts(surveys, times)
    sizes = [found.sizes for found in surveys]
    labels = surveys[0].labels if len(surveys) == 1 else np.concatenate([found.labels for found in surveys])
    count = len(cuts) + sum(
        int(np.count_nonzero(size) if drawn is None else drawn[size > 0].sum(dtype=np.int64))
        for size, drawn in zip(sizes, times, strict=True)
    )
    items = _items(bases, sizes, times, cuts)
    packing = Packing(items, int(bases[-1]) + len(cuts), count, rules.seq_length, *key)
    surveys.clear()
    del sizes, items
    poured = Poured(np.empty(0, PIECE), np.empty(0, np.int64), np.empty(0, np.int64))
    if rules.overlong in ("split", "window"):
        poured = pour(packing, cuts, inputs, int(bases[-1]), rules.seq_length, *key)
    extra = bases[-1] + len(cuts) + np.arange(len(poured.slices))
    cuts = _extended(cuts, poured.slices)
    used = int((packing.counts * np.arange(rules.seq_length + 1)).sum()) + int(size_of(poured.slices).sum())
    used -= rules.seq_length * len(poured.drop)
    order, offsets = packing.arrange(extra.astype(np.uint32), poured.into, poured.drop)
    del packing
    weights, targets = _weights(order, offsets, labels, cuts, rules)
    summary = {
        "rows": len(weights),
        "pieces": len(order),
        "slices_cut_to_fill": len(poured.slices),
        "positions": used,
        "targets": targets,
        "fill": used / (len(weights) * rules.seq_length),
        **counts,
    }
    return Plan(order, offsets, cuts, weights, bases, summary)


def sum_counts(surveys: Sequence[Survey], times: Sequence[NDArray[np.uint8] | None]) -> dict[str, int]:
    """Sum the counts of all sources; ``documents`` are those that the epoch takes from them."""
    counts: Counter[str] = Counter(documents=0)
    for found, drawn in zip(surveys, times, strict=True):
        counts.update(found.counts)
        taken = found.documents if drawn is None else drawn[found.learned].sum(dtype=np.int64)
        counts["documents"] += int(taken)
    return dict(counts)


def _extended(pieces: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Append ``more`` to ``pieces``, in place where possible: the array may take gigabytes."""
    if not len(more):
        return pieces
    if not pieces.flags.owndata or not len(pieces):
        return np.concatenate([pieces, more])
    count = len(pieces)
    pieces.resize(count + len(more), refcheck=False)
    pieces[count:] = more
    return pieces


def _drawn_cuts(
    surveys: Sequence[Survey], times: Sequence[NDArray[np.uint8] | None]
) -> tuple[np.ndarray, NDArray[np.int32]]:
    if len(surveys) == 1 and times[0] is None:
        return surveys[0].cuts, surveys[0].inputs
    cuts, inputs = [], []
    for found, drawn in zip(surveys, times):
        repeat = 1 if drawn is None else drawn[found.cuts["document"] - found.begin]
        cuts.append(np.repeat(found.cuts, repeat))
        inputs.append(np.repeat(found.inputs, repeat))
    return np.concatenate(cuts), np.concatenate(inputs)


def _items(
    bases: NDArray[np.int64],
    sizes: Sequence[NDArray[np.int32]],
    times: Sequence[NDArray[np.uint8] | None],
    cuts: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield number and size of each item, in parts."""
    for base, size, drawn in zip(bases.tolist(), sizes, times):
        for start in range(0, len(size), STEP):
            here = size[start : start + STEP]
            found = np.flatnonzero(here)
            if drawn is not None:
                found = np.repeat(found, drawn[start : start + STEP][found])
            yield base + start + found, here[found]
    for start in range(0, len(cuts), STEP):
        part = cuts[start : start + STEP]
        yield int(bases[-1]) + start + np.arange(len(part)), size_of(part)


def _weights(
    order: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    labels: NDArray[np.int32],
    cuts: np.ndarray,
    rules: RowSettings,
) -> tuple[NDArray[np.float64], int]:
    """Return the sum of the label weights of each row, and all labels."""
    weights, targets = np.zeros(len(offsets) - 1, np.float64), 0
    documents = len(labels)
    labels = np.concatenate([labels, cuts["labels"].astype(np.int32)])  # of every item
    row = 0
    while row < len(weights):
        # Whole rows of about STEP items.
        end = max(int(np.searchsorted(offsets, offsets[row] + STEP, side="right")) - 1, row + 1)
        items = order[offsets[row] : offsets[end]]
        learned = labels[items]
        targets += int(learned.sum(dtype=np.int64))
        weight = learned.astype(np.float64)
        if rules.norm_target_loss:
            cut = items >= documents
            weight[~cut] = 1
            weight[cut] /= cuts["divisor"][items[cut] - documents]
        weights[row:end] = np.add.reduceat(weight, offsets[row:end] - offsets[row])
        row = end
    return weights, targets
