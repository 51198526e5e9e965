"""How often rows appear: weights, totals, caps, duplicates."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_octo.commits.sources.mix_plan import NO_LANGUAGE, Scan, make_plan, quotas
from megatron_octo.commits.sources.mix_recipe import MixRecipe, make_recipe
from megatron_octo.common.errors import OctoError


def recipe(*weights: float, **more: Any) -> MixRecipe:
    sources = {f"s{place}": {"path": "p", "weight": float(weight)} for place, weight in enumerate(weights)}
    return make_recipe({"sources": sources, **more}, "test")


def scan(source: int, keys: list[int], langs: list[str] | None = None, texts: list[int] | None = None) -> Scan:
    names = [NO_LANGUAGE, *sorted({*(langs or [])} - {NO_LANGUAGE})]
    return Scan(
        source,
        np.array(keys, np.uint64),
        np.array([[text, 0] for text in texts or keys], np.uint64),
        np.array([names.index(each) for each in langs or [NO_LANGUAGE] * len(keys)], np.int32),
        names,
        np.ones(len(keys), bool),
    )


@pytest.mark.parametrize(
    ("weights", "more", "there", "wanted"),
    [
        ((1, 0.5, 2), {}, [10, 9, 4], [10, 5, 8]),
        ((1, 3), {"total": 8}, [10, 10], [2, 6]),
        ((1, 3), {"total": 12}, [10, 6], [6, 6]),  # what the second lacks comes from the first
        ((1, 3), {"total": 12, "repeat": True}, [10, 6], [3, 9]),
        ((1, 1, 1), {"total": 10}, [9, 9, 9], [4, 3, 3]),
        ((1, 1), {"total": 4}, [0, 9], [0, 4]),
        ((1, 1), {"total": 4, "repeat": True}, [0, 2], [0, 4]),
    ],
)
def test_quotas(weights: tuple[float, ...], more: dict[str, Any], there: list[int], wanted: list[int]) -> None:
    assert quotas(recipe(*weights, **more), there) == wanted


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.01, 10)), min_size=1, max_size=6), st.data())
def test_quotas_reach_the_total(sources: list[tuple[int, float]], data: st.DataObject) -> None:
    there, weights = [count for count, _ in sources], [weight for _, weight in sources]
    total = data.draw(st.integers(1, sum(there) + 1))
    chosen = recipe(*weights, total=total)
    if total > sum(there):
        with pytest.raises(OctoError, match="rows that may appear"):
            quotas(chosen, there)
        return
    found = quotas(chosen, there)
    assert sum(found) == total and all(one <= other for one, other in zip(found, there, strict=True))
    # Those that are not exhausted stand in the proportion of their weights, up to one row.
    free = [(count, weight) for count, weight, most in zip(found, weights, there, strict=True) if count < most]
    for count, weight in free:
        for other, of_other in free:
            assert count - 1 <= (other + 1) * weight / of_other + 1e-6


def test_caps_keep_the_smallest_keys() -> None:
    chosen = make_recipe({"sources": {"a": {"path": "p", "cap": 3, "language_cap": {"python": 1}}}}, "test")
    plan = make_plan(chosen, [scan(0, [5, 4, 3, 2, 1], ["Python", "Python", "C", "C", ""])])
    assert plan.copies[0].tolist() == [0, 0, 1, 1, 1]
    assert plan.counts == {"a": {"read": 5, "capped": 2, "distinct": 3, "written": 3}}


def test_a_cap_of_languages_over_all_sources() -> None:
    chosen = recipe(1, 1, language_cap=1)
    plan = make_plan(chosen, [scan(0, [3, 8], ["C", ""]), scan(1, [2, 1], ["C", ""])])
    assert [each.tolist() for each in plan.copies] == [[0, 1], [1, 1]]


def test_of_duplicates_the_first_source_stays() -> None:
    chosen = recipe(1, 1, dedup="inputs")
    plan = make_plan(chosen, [scan(1, [1, 2], texts=[7, 8]), scan(0, [9, 5], texts=[7, 7])])
    assert [each.tolist() for each in plan.copies] == [[0, 1], [0, 1]]
    assert [each["duplicates"] for each in plan.counts.values()] == [1, 1]


def test_weights_repeat_the_rows_of_the_smallest_keys_more_often() -> None:
    assert make_plan(recipe(2.5), [scan(0, [5, 1, 3, 2])]).copies[0].tolist() == [2, 3, 2, 3]


def test_pieces_and_order_do_not_matter() -> None:
    r = np.random.default_rng(0)
    keys = r.permutation(300).tolist()
    langs, texts = [["C", "Go", ""][key % 3] for key in keys], [key // 2 for key in keys]
    chosen = recipe(0.5, dedup="pairs", language_cap=40)
    whole = make_plan(chosen, [scan(0, keys, langs, texts)])
    cut = make_plan(
        chosen, [scan(0, keys[a : a + 70], langs[a : a + 70], texts[a : a + 70]) for a in range(0, 300, 70)]
    )
    assert np.concatenate(cut.copies).tolist() == whole.copies[0].tolist() and cut.counts == whole.counts
    back = make_plan(chosen, [scan(0, keys[::-1], langs[::-1], texts[::-1])])
    assert back.copies[0][::-1].tolist() == whole.copies[0].tolist()
    assert 0 < whole.copies[0].sum() < 150
