"""Turns of requests: the rate, waits after refusals, and the end."""

import pytest

from megatron_octo.commits.scrape.politeness import Host, TooManyRefusalsError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_rate() -> None:
    clock = Clock()
    host = Host("made", 2.0, 5, clock, clock.sleep)
    for _ in range(9):
        host.wait()
    assert clock.now == pytest.approx(4.0)


def test_waits_after_refusals_grow_and_follow_the_host() -> None:
    clock = Clock()
    host = Host("made", 1000.0, 5, clock, clock.sleep)
    host.refused(None)
    host.wait()
    first = clock.now
    assert 0.5 <= first <= 1.0
    host.refused(None)
    host.wait()
    assert 1.0 <= clock.now - first <= 2.01
    before = clock.now
    host.refused(30.0)
    host.wait()
    assert clock.now - before == pytest.approx(30.0, abs=0.01)


def test_the_end_after_many_in_a_row() -> None:
    clock = Clock()
    host = Host("made", 1.0, 3, clock, clock.sleep)
    host.refused(None)
    host.refused(None)
    host.accepted()
    host.refused(None)
    host.refused(None)
    with pytest.raises(TooManyRefusalsError, match="3 requests in a row"):
        host.refused(None)
    with pytest.raises(TooManyRefusalsError):
        host.wait()
