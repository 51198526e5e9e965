"""Counts in bounded memory add up whatever the names."""

from collections import Counter

from megatron_octo.commits.report.counts import (
    BINS,
    LENGTH,
    OTHERS,
    Amount,
    Counts,
    Histogram,
    Names,
    least,
    short,
    total,
)


def test_counts_stay_small_and_add_up() -> None:
    counts, plain = Counts(), Counter[str]()
    counts.most = 100
    for number in range(5000):
        name = f"name {number}" if number % 3 else ("often", "oftener")[number % 2]
        counts.note(name)
        plain[name] += 1
        assert len(counts) <= 101
    assert counts.total() == 5000
    assert counts["often"] == plain["often"] and counts["oftener"] == plain["oftener"]
    assert counts[OTHERS] == 5000 - sum(count for name, count in counts.items() if name != OTHERS)


def test_long_names_are_cut() -> None:
    assert short("a" * LENGTH) == "a" * LENGTH
    assert len(short("a" * 10**6)) == LENGTH and short("a" * 10**6).endswith("...")


def test_names_behind_the_first_ones_are_others() -> None:
    names = Names(2)
    assert [names(each) for each in ("a", "b", "c", "a", "b", "d")] == ["a", "b", OTHERS, "a", "b", OTHERS]


def test_amounts() -> None:
    one, other = Amount(), Amount()
    one.note(10, 3)
    other.note(5, None)
    assert total([one, other]) == Amount(2, 15, 3, 1)
    assert (one, other) == (Amount(1, 10, 3, 1), Amount(1, 5, 0, 0))


def test_each_size_is_in_the_bin_that_begins_at_or_below_it() -> None:
    for size in (0, 1, 2, 3, 4, 1023, 1024, 2 ** (BINS - 2), 10**12, -1):
        bins = Histogram()
        bins.note(size)
        place = bins.index(1)
        assert sum(bins) == 1 and (least(place) <= size or size < 0)
        assert place == BINS - 1 or size < least(place + 1)
