"""Processes that take groups from one queue: every item once, mistakes and deaths told."""

import os
import signal
from collections.abc import Iterable, Iterator

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.generation.queue import over_devices

GROUPS = [[10 * group + number for number in range(3)] for group in range(7)]


def doubled(device: str, items: Iterable[int]) -> Iterator[tuple[str, int]]:
    for item in items:
        yield device, 2 * item


def mistaken(device: str, items: Iterable[int]) -> Iterator[int]:
    for item in items:
        if item == 31:
            raise OctoError("no such model", where=device, hint="another")
        yield item


def broken(device: str, items: Iterable[int]) -> Iterator[int]:
    raise ValueError("broken here")
    yield from items


def killed(device: str, items: Iterable[int]) -> Iterator[int]:
    for item in items:
        if item == 31:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item


@pytest.mark.slow
def test_every_item_is_done_once() -> None:
    found = list(over_devices(["one", "two"], GROUPS, doubled))
    assert sorted(value for _, value in found) == [2 * item for group in GROUPS for item in group]
    by_item = {value // 2: device for device, value in found}
    assert all(len({by_item[item] for item in group}) == 1 for group in GROUPS)  # groups stay together


@pytest.mark.slow
def test_mistakes_and_deaths_are_told() -> None:
    with pytest.raises(OctoError, match="no such model") as told:
        list(over_devices(["one", "one"], GROUPS, mistaken))
    assert told.value.where == "one" and told.value.hint == "another"
    with pytest.raises(RuntimeError, match="broken here"):
        list(over_devices(["one"], GROUPS, broken))
    with pytest.raises(OctoError, match=r"ended with code -9"):
        list(over_devices(["one"], GROUPS, killed))
