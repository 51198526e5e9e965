"""Clusters of duplicates; the row that stays is the one with the smallest commit id."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_octo.commits.clean.edits import Hashes, jaccard
from megatron_octo.commits.clean.keys import Keys, Near, places

KINDS = ("", "blobs", "text", "near")
_LEADERS = 64  # of a bucket, with which a row is compared


@dataclass
class Decisions:
    """What becomes of all rows.

    Attributes:
        kind: number in :data:`KINDS` by which a row is dropped, 0 for one that stays, uint8 [rows].
        kept: for each row the one that stays in its place, int64 [rows].
        similarity: of a near duplicate with the nearest row that it was compared with, float32 [rows].
        compared: pairs whose true similarity was computed.
    """

    kind: NDArray[np.uint8]
    kept: NDArray[np.int64]
    similarity: NDArray[np.float32]
    compared: int = 0


def decide(keys: Sequence[Keys], near: Near | None) -> Decisions:
    """Find the duplicates: by blob ids, among the others by normalised texts, among the others near ones.

    The result does not depend on the order of the rows and how they are cut into pieces, except among rows that are
    equal in commit and file names, of which the first stays.

    Near duplicates: rows that share a band are candidates. In the order of their commits each is compared with those
    of the bucket that joined no other, up to a limit, by the true similarity of their shingles. Verified pairs make
    clusters, which are connected: two rows of one need not be similar themselves. About 150 bytes of memory per row,
    and the buckets of one band at a time.
    """
    commit = np.concatenate([each.commit for each in keys])
    count = len(commit)
    order = np.lexsort((np.concatenate([each.tie for each in keys]), commit))
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    del commit, order
    found = Decisions(np.zeros(count, np.uint8), np.arange(count), np.zeros(count, np.float32))
    alive = np.concatenate([each.kept for each in keys])
    for kind, name in ((1, "pair"), (2, "text")):
        _drop_equal(np.concatenate([getattr(each, name) for each in keys]), rank, alive, found, kind)
    if near is not None:
        _drop_near(keys, near, rank, alive, found)
    return found


def _drop_equal(
    digest: NDArray[np.void], rank: NDArray[np.int64], alive: NDArray[np.bool_], found: Decisions, kind: int
) -> None:
    halves = np.frombuffer(digest.tobytes(), np.uint64).reshape(-1, 2)
    rows = np.flatnonzero(alive & halves.any(axis=1))
    order = rows[np.lexsort((rank[rows], halves[rows, 1], halves[rows, 0]))]
    same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    first = np.concatenate([[True], ~same])[: len(order)]
    leader = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    gone = order[~first]
    found.kind[gone], found.kept[gone] = kind, leader[~first]
    alive[gone] = False


class _Union:
    """Disjoint sets of rows; the root of a set is its row of the smallest rank."""

    def __init__(self, rank: NDArray[np.int64]) -> None:
        self._rank = rank
        self._parent: dict[int, int] = {}

    def find(self, row: int) -> int:
        root = row
        while (up := self._parent.get(root, root)) != root:
            root = up
        while row != root:
            self._parent[row], row = root, self._parent.get(row, row)
        return root

    def join(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        if one != other:
            small, large = sorted((one, other), key=lambda row: int(self._rank[row]))
            self._parent[large] = small

    def rows(self) -> Iterator[tuple[int, int]]:
        for row in list(self._parent):
            if (root := self.find(row)) != row:
                yield row, root


class _Shingles:
    """Shingles of any row, by its number among all."""

    def __init__(self, keys: Sequence[Keys]) -> None:
        self._starts = np.array([start for start, _ in places(keys)], np.int64)
        self._pieces = [each.shingles() for each in keys]

    def __getitem__(self, row: int) -> Hashes:
        number = int(np.searchsorted(self._starts, row, "right")) - 1
        piece, place = self._pieces[number], row - int(self._starts[number])
        return piece.values[piece.starts[place] : piece.starts[place + 1]]


def _drop_near(
    keys: Sequence[Keys], near: Near, rank: NDArray[np.int64], alive: NDArray[np.bool_], found: Decisions
) -> None:
    texts, sets = _Shingles(keys), _Union(rank)
    counts = np.concatenate([np.diff(each.shingles().starts) for each in keys])
    rows = np.flatnonzero(alive & (counts > 0))
    stored = [each.bands() for each in keys]
    for band in range(near.bands):
        hashes = np.concatenate([each[band] for each in stored])[rows]
        order = np.lexsort((rank[rows], hashes))
        edges = np.flatnonzero(np.diff(hashes[order])) + 1
        bounds = np.concatenate([[0], edges, [len(order)]])
        for start in np.flatnonzero(np.diff(bounds) > 1):
            bucket = rows[order[bounds[start] : bounds[start + 1]]].tolist()
            _compare(bucket, texts, sets, near.threshold, found)
    for row, root in sets.rows():
        found.kind[row], found.kept[row] = 3, root


def _compare(bucket: list[int], texts: _Shingles, sets: _Union, threshold: float, found: Decisions) -> None:
    leaders: list[tuple[int, Hashes]] = []
    for row in bucket:
        roots = {sets.find(leader) for leader, _ in leaders}
        if sets.find(row) in roots:
            continue
        own = texts[row]
        for leader, other in leaders:
            small, large = sorted((len(own), len(other)))
            if small < threshold * large:  # even if all were common
                continue
            found.compared += 1
            similarity = jaccard(own, other)
            if similarity >= threshold:
                sets.join(row, leader)
                for each in (row, leader):
                    found.similarity[each] = max(found.similarity[each], similarity)
                break
        else:
            if len(leaders) < _LEADERS:
                leaders.append((row, own))
