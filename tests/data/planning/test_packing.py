import bisect
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.data.planning import packing
from megatron_octo.data.planning.packing import Packing, best_fit, permutation

GOLDEN_PERMUTATION = [3, 1, 0, 4, 5, 2]
GOLDEN_ROWS = [[4], [3, 9], [6], [2, 8], [1], [0, 5, 7]]
NOTHING = np.empty(0, np.int64)


def pack(lengths: NDArray[np.int64], capacity: int, *key: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    items = [(np.arange(len(lengths)), lengths)]
    found = Packing(items, len(lengths), len(lengths), capacity, *key)
    assert found.used().sum() == lengths.sum() and found.used().max() <= capacity
    return found.arrange(NOTHING.astype(np.uint32), NOTHING, NOTHING)


def sequential(sizes: Sequence[int], capacity: int) -> list[int]:
    """Best-fit decreasing as in the book, item by item; used positions of each row, sorted."""
    left: list[int] = []
    for size in sorted(sizes, reverse=True):
        place = bisect.bisect_left(left, size)
        rest = left.pop(place) - size if place < len(left) else capacity - size
        bisect.insort(left, rest)
    return sorted(capacity - rest for rest in left)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 60), st.data())
def test_bulk_equals_item_by_item(capacity: int, data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=80)), np.int64)
    row_of, count = best_fit(np.bincount(sizes, minlength=capacity + 1), capacity)
    used = np.bincount(row_of, weights=np.sort(sizes)[::-1], minlength=count).astype(int)
    assert sorted(used) == sequential(sizes.tolist(), capacity)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 5), st.data())
def test_every_item_once(capacity: int, step: int, data: st.DataObject) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=40)), np.int64)
    expected = pack(sizes, capacity, 3, 0)
    order, offsets = expected
    assert sorted(order.tolist()) == list(range(len(sizes)))
    assert np.add.reduceat(sizes[order], offsets[:-1]).max() <= capacity
    with pytest.MonkeyPatch.context() as patch:  # the size of the blocks that are computed at once changes nothing
        patch.setattr(packing, "STEP", step)
        assert all(map(np.array_equal, expected, pack(sizes, capacity, 3, 0)))


def test_a_million_documents() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(5.8, 1.0, 10**6), 1, 8192).astype(np.int64)
    start = time.perf_counter()
    order, offsets = pack(lengths, 8192, 1, 0)
    assert time.perf_counter() - start < 20  # about 0.3 s on an idle core
    assert np.add.reduceat(lengths[order], offsets[:-1]).max() <= 8192
    assert np.array_equal(np.sort(order), np.arange(10**6))
    assert lengths.sum() / ((len(offsets) - 1) * 8192) > 0.9999


def test_the_same_on_every_machine() -> None:
    """Written down once: a change of these rows changes every plan, and needs a new ALGORITHM number."""
    lengths = np.array([3, 8, 5, 5, 2, 1, 8, 4, 3, 3])
    order, offsets = pack(lengths, 8, 7, 0)
    assert permutation(6, 7, 0).tolist() == GOLDEN_PERMUTATION
    assert [sorted(order[a:b].tolist()) for a, b in pairwise(offsets)] == GOLDEN_ROWS


def test_the_key_changes_ties_and_rows() -> None:
    lengths = np.full(64, 4)
    rows = [pack(lengths, 8, 1, epoch)[0].tolist() for epoch in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_permutations_are_fair() -> None:
    counts = np.zeros((6, 6))
    for seed in range(3000):
        counts[np.arange(6), permutation(6, seed)] += 1
    assert np.abs(counts / 3000 - 1 / 6).max() < 0.03


def test_too_many_documents_are_named() -> None:
    with pytest.raises(OctoError, match="are too many"):
        Packing([], 2**33, 0, 8192, 1)
