"""Tests of pass@k against counting, and of its intervals against simulated runs."""

import itertools

import numpy as np
import pytest

from megatron_octo.evaluation.results.pass_at_k import (
    bootstrap,
    draw_means,
    paired_difference,
    pass_at_k,
    per_problem,
    wilson,
)


@pytest.mark.parametrize("samples", range(1, 9))
def test_it_equals_the_share_of_all_choices_with_a_correct_one(samples: int) -> None:
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        choices = list(itertools.combinations([1] * correct + [0] * (samples - correct), k))
        expected = sum(any(choice) for choice in choices) / len(choices)
        assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("samples,correct,k", [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1)])
def test_impossible_counts_are_refused(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, correct, k)


def test_large_numbers_stay_exact() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, abs=1e-12)
    assert pass_at_k(1000, 999, 2) == 1.0


def test_wilson_equals_its_published_example_and_never_leaves_zero_to_one() -> None:
    # Newcombe 1998, table I: 81 of 263, method 3.
    assert list(wilson(81, 263)) == pytest.approx([0.2553, 0.3662], abs=5e-5)
    assert list(wilson(0, 20)) == pytest.approx([0.0, 0.1611], abs=5e-5)
    assert wilson(20, 20)[1] == 1.0


def test_equal_values_give_equal_intervals_and_blocks_do_not_show() -> None:
    values = per_problem([(20, count % 21) for count in range(164)], 1)
    assert bootstrap(values) == bootstrap(values.copy())
    assert bootstrap(values, seed=1) != bootstrap(values)
    means = draw_means(values, 0, 10_000)
    assert means.shape == (10_000,) and len(np.unique(means[:2000])) > 300
    assert not np.array_equal(means[:2000], means[2000:4000])


def test_a_run_differs_from_itself_by_nothing() -> None:
    values = per_problem([(20, count % 21) for count in range(164)], 1)
    found = paired_difference(values, values)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(3)
    first = generator.uniform(0, 0.9, 164)
    second = first + 0.05 + generator.normal(0, 0.01, 164)
    found, alone = paired_difference(first, second), bootstrap(first)
    assert found.low > 0 and found.high - found.low < (alone.high - alone.low) / 5


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 20])
def test_intervals_cover_the_truth_as_often_as_they_say(samples: int) -> None:
    """Problems of unlike difficulty, drawn anew in each run: 95 % of the intervals hold the mean of all problems."""
    generator, runs = np.random.default_rng(7), 2000
    covered = 0
    for _ in range(runs):
        chances = generator.beta(0.6, 1.2, 164)
        correct = generator.binomial(samples, chances)
        found = bootstrap(per_problem([(samples, int(count)) for count in correct], 1), resamples=1000)
        covered += found.low <= 100 * 0.6 / 1.8 <= found.high
    assert 0.93 <= covered / runs <= 0.97


@pytest.mark.slow
def test_intervals_of_differences_cover_the_truth() -> None:
    generator, runs = np.random.default_rng(8), 500
    covered = 0
    for _ in range(runs):
        chances = generator.beta(0.6, 1.2, 164)
        shift = generator.normal(0.03, 0.1, 164)
        rates = [generator.binomial(20, np.clip(each, 0, 1)) / 20 for each in (chances, chances)]
        found = paired_difference(rates[0], rates[1] + shift)
        covered += found.low <= 3 <= found.high
    assert 0.93 <= covered / runs <= 0.97
