"""Numbers that look random, the nucleus, and the frequencies of what is chosen."""

import numpy as np
import pytest
import torch

from megatron_octo.common.splitmix import finalize
from megatron_octo.evaluation.generation import sampling
from megatron_octo.evaluation.generation.sampling import as_signed, choose, stream_key, uniforms

COUNT = 20_000


def keys(count: int) -> torch.Tensor:
    return as_signed([stream_key(0, "task", number // 20, number % 20) for number in range(count)])


def test_streams_have_keys_of_their_own() -> None:
    places = [(seed, task, p, s) for seed in (0, 1) for task in ("a", "b") for p in range(11) for s in range(12)]
    assert len({stream_key(*place) for place in places}) == len(places)
    assert stream_key(0, "a", 1, 11) != stream_key(0, "a", 11, 1)
    assert as_signed([2**64 - 1, 2**63, 1]).tolist() == [-1, -(2**63), 1]


def test_the_mixer_is_splitmix() -> None:
    words = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    ours = sampling._mix(torch.from_numpy(words.view(np.int64)))
    assert np.array_equal(ours.numpy().view(np.uint64), finalize(words))


@pytest.mark.parametrize("axis", ["streams", "steps", "tokens"])
def test_numbers_are_uniform_and_independent_along_each_axis(axis: str) -> None:
    if axis == "streams":
        found = uniforms(keys(COUNT), torch.zeros(COUNT, dtype=torch.int64), torch.zeros((COUNT, 1), dtype=torch.int64))
    elif axis == "steps":
        found = uniforms(keys(1).expand(COUNT), torch.arange(COUNT), torch.zeros((COUNT, 1), dtype=torch.int64))
    else:
        found = uniforms(keys(1), torch.zeros(1, dtype=torch.int64), torch.arange(COUNT)[None])
    values = found.flatten().double().numpy()
    assert values.min() > 0 and values.max() < 1
    counts = np.histogram(values, bins=50, range=(0, 1))[0]
    assert ((counts - COUNT / 50) ** 2 / (COUNT / 50)).sum() < 95  # chi-square, 49 degrees of freedom: p above 1e-4
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 4 / COUNT**0.5


@pytest.mark.parametrize("word", [0, -1])
def test_the_ends_are_left_out(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_mix", lambda values: torch.full_like(values, word))
    zero = torch.zeros(1, dtype=torch.int64)
    assert 0 < uniforms(zero, zero, zero[None]).item() < 1
    # Noise without end would choose tokens outside the nucleus.
    logits = torch.tensor([[3.0, 9.0, 1.0]])
    assert choose(logits, zero, zero, 1.0, 0.5).tolist() == [1]


def test_greedy_takes_the_largest() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(0))
    assert choose(logits, keys(5), torch.zeros(5, dtype=torch.int64), 0.0, 0.5).equal(logits.argmax(dim=-1))


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.7, 1.0), (1.3, 0.8)])
def test_frequencies_are_those_of_the_nucleus(temperature: float, top_p: float) -> None:
    logits = torch.randn(12, generator=torch.Generator().manual_seed(2)) * 1.5
    expected = torch.softmax(logits / temperature, dim=-1)
    order = expected.argsort(descending=True)
    before = expected[order].cumsum(dim=-1) - expected[order]
    expected[order[before >= top_p]] = 0
    expected /= expected.sum()
    chosen = choose(logits.expand(COUNT, -1), keys(COUNT), torch.full((COUNT,), 3), temperature, top_p)
    found = torch.bincount(chosen, minlength=12) / COUNT
    assert bool((found[expected == 0] == 0).all())
    assert bool(((found - expected).abs() < 5 * (expected * (1 - expected) / COUNT).sqrt() + 1e-9).all())


def test_a_wide_nucleus_is_that_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(40, 300, generator=torch.Generator().manual_seed(3))
    steps = torch.arange(40)
    whole = choose(logits, keys(40), steps, 1.0, 0.95)
    monkeypatch.setattr(sampling, "_NUCLEUS", 8)
    assert choose(logits, keys(40), steps, 1.0, 0.95).equal(whole)


def test_a_row_chooses_the_same_beside_any_other() -> None:
    logits = torch.randn(17, 300, generator=torch.Generator().manual_seed(4))
    steps, streams = torch.arange(17), keys(17)
    together = choose(logits, streams, steps, 0.8, 0.95)
    for place in range(17):
        one = slice(place, place + 1)
        assert choose(logits[one], streams[one], steps[one], 0.8, 0.95).equal(together[one])
