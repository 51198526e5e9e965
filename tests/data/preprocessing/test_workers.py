import os
import signal
from collections.abc import Callable

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.workers import ordered_map


def _work(item: int) -> int:
    if item == 13:
        raise OctoError("thirteen", where="item 13")
    if item == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def make() -> Callable[[int], int]:
    return _work


@pytest.mark.parametrize("workers", [1, 3])
def test_order_is_kept(workers: int) -> None:
    assert list(ordered_map(make, iter(range(12)), workers)) == [i * i for i in range(12)]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_in_order_and_keep_their_place(workers: int) -> None:
    done = []
    with pytest.raises(OctoError, match="thirteen") as caught:
        done.extend(ordered_map(make, [1, 2, 13, 13, 4], workers))
    assert caught.value.where == "item 13"


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(OctoError, match=r"a worker process died \(exit code -9\)"):
        list(ordered_map(make, [1, 99, 2, 3, 4], 2))


def test_few_items_are_in_flight() -> None:
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 101):
            yield taken - 1 if taken < 13 else 1

    results = ordered_map(make, items(), 2)
    for _ in range(3):
        next(results)
    assert taken <= 3 + 2 * 2
    results.close()
