"""Pieces of documents that are longer than a row: plain cuts, and windows that repeat the input.

A piece is a run of positions of a document, in front of which a part of the input may be repeated:

    context            tokens of the input, repeated; none of their labels is learned
    first ...          ``length`` positions: inputs are tokens first .. first+length-1, labels those one further on;
                       the first ``skip`` labels were learned in the window before and are not learned again

So a window of a long output reads: the input, the end of what the window before learned, what is learned here. The
input takes at most half of a window, the overlap an eighth. An input that is too long for that is cut in its middle:
what stands at its ends (a file's head, the message before the output) stays.
"""

import numpy as np
from numpy.typing import NDArray

PIECE = np.dtype(
    [
        ("source", "<u2"),
        ("document", "<i8"),
        ("context", "<u4"),  # repeated tokens of the input
        ("first", "<u4"),
        ("length", "<u4"),
        ("skip", "<u4"),
        ("labels", "<u4"),  # that are learned
        ("divisor", "<u4"),  # each label weighs 1/divisor
    ]
)
INPUT, OVERLAP = 2, 8  # the input takes at most 1/2 of a window, the overlap 1/8


def size_of(pieces: np.ndarray) -> NDArray[np.int64]:
    """Return the positions of each piece, int64 [P]."""
    positions: NDArray[np.int64] = pieces["context"].astype(np.int64) + pieces["length"]
    return positions


def source_tokens(piece: np.void, inputs: int) -> NDArray[np.int64]:
    """Return which tokens of its document a piece reads.

    Args:
        piece: a PIECE.
        inputs: tokens of the document's input.

    Returns:
        int64 [context + length + 1]: all but the last are inputs, all but the first are labels.
    """
    context, first, length = int(piece["context"]), int(piece["first"]), int(piece["length"])
    own = np.arange(first, first + length + 1)
    if not context:
        return own
    whole = min(first, inputs)
    head = context if context == whole else -(-context // 2)
    return np.concatenate([np.arange(head), np.arange(whole - (context - head), whole), own])


def cut_back(
    positions: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut runs of positions at multiples of ``capacity`` from their ends.

    The piece that is shorter lies at the start, where the context is, and the targets of a long document keep as
    much context before them as a row holds.

    Returns:
        owner, first and length of each piece, int64 [P].
    """
    cuts = -(-positions // capacity)
    owner = np.repeat(np.arange(len(positions)), cuts)
    behind = np.repeat(np.cumsum(cuts), cuts) - np.arange(len(owner)) - 1
    end = positions[owner] - behind * capacity
    first = np.maximum(end - capacity, 0)
    return owner, first, end - first


def cut_windows(
    positions: NDArray[np.int64], inputs: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.int64], ...]:
    """Cut windows of full size (the last of each document is smaller) that learn each label behind the input once.

    Args:
        positions: of each document, int64 [D].
        inputs: tokens of its input, at least 1, int64 [D].
        capacity: positions in a row.

    Returns:
        owner, context, first, length and skip of each window, int64 [P] each.
    """
    end = positions + 1  # one past the last token
    context_0 = np.minimum(inputs - 1, capacity // INPUT)
    room_0 = np.minimum(capacity - context_0, end - inputs)
    context = np.minimum(inputs, capacity // INPUT)
    overlap = np.minimum(capacity // OVERLAP, room_0 - 1)
    room = capacity - context - overlap
    more = -(-(end - inputs - room_0) // room)
    owner = np.repeat(np.arange(len(positions)), 1 + more)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(1 + more) - 1 - more, 1 + more)
    later = number > 0
    label = inputs[owner] + later * (room_0[owner] + (number - 1) * room[owner])  # the first that is learned
    last = np.minimum(label + np.where(later, room[owner], room_0[owner]), end[owner])
    skip = later * overlap[owner]
    first = label - 1 - skip
    return owner, np.where(later, context[owner], context_0[owner]), first, last - 1 - first, skip


def frame(size: int, inputs: int, label: int) -> tuple[int, int]:
    """Return context and overlap of a window of ``size`` positions whose first learned label is token ``label``."""
    overlap = min(size // OVERLAP, label - inputs - 1) if label > inputs else 0
    return min(size // INPUT, inputs if label > inputs else inputs - 1), overlap
