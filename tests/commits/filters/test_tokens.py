"""The rule on tokens: its bounds hold, and its decisions are those of a count by the reference."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from megatron_octo.commits.filters.models import MODELS
from megatron_octo.commits.filters.subject import Look
from megatron_octo.commits.filters.tokens import Bounds, TokenRule
from megatron_octo.commits.rows import read_rows
from tests.commits.filters.made import ALONE, row
from tests.places import SHARED

STARCODER = SHARED / "starcoder_tokenizer.json"
pytestmark = pytest.mark.skipif(not STARCODER.is_file(), reason="needs StarCoder's tokenizer")


@pytest.fixture(scope="module")
def reference() -> Tokenizer:
    return Tokenizer.from_file(str(STARCODER))


@pytest.fixture(scope="module")
def bounds() -> Bounds:
    return Bounds(json.loads(STARCODER.read_bytes()))


TEXTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ["<fim_prefix>", "<|endoftext|>", " " * 300, "aéb", "1²3²5", "don't", "\n\n\t", "x_y_z", "e\u0301a"]
        ),
    ),
    max_size=30,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.booleans())
def test_bounds_hold(reference: Tokenizer, bounds: Bounds, text: str, spelled: bool) -> None:
    reference.encode_special_tokens = not spelled
    count = len(reference.encode(text, add_special_tokens=False).ids)
    assert bounds.at_least([text], 10**9) <= count <= bounds.at_most([text])


def test_bounds_are_not_used_for_what_they_are_not_proven_for() -> None:
    description = json.loads(STARCODER.read_bytes())
    assert Bounds(description).known and not Bounds(description | {"normalizer": {"type": "NFC"}}).known
    assert Bounds({}).at_least(["a b c"], 2) == 0 and Bounds({}).at_most(["a b c"]) == float("inf")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["octopack", "fixed"])
def test_a_row_that_only_tokens_drop(mode: str) -> None:
    rule = TokenRule(STARCODER, MODELS["starcoder"], mode)  # type: ignore[arg-type]
    assert rule(Look.of(row({}))) is None
    assert rule(Look.of(row(ALONE["tokens"]))) is not None
    assert rule(Look.of(row({"old_contents": "a", "new_contents": "b"}))) == "under 50 tokens"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_counts_of_all_models(reference: Tokenizer, name: str) -> None:
    reference.encode_special_tokens = False
    look = Look.of(row({}))
    whole = MODELS[name].whole(look)
    count = len(reference.encode(whole, add_special_tokens=False).ids)
    assert TokenRule(STARCODER, MODELS[name], "octopack").count(look) == count
    assert TokenRule(STARCODER, MODELS[name], "fixed").count(look) == count


@pytest.mark.slow
def test_decisions_on_real_rows(reference: Tokenizer) -> None:
    reference.encode_special_tokens = False
    model, wrong = MODELS["starcoder"], []
    rule = TokenRule(STARCODER, model, "octopack")
    for each in list(read_rows(SHARED / "commits.jsonl.gz"))[::5]:
        look = Look.of(each)
        if (
            len(look.old) + len(look.new) > 120_000
        ):  # 768 tokens of 256 bytes are fewer than twice that; all are too long
            assert rule(look) is not None
            continue
        count = len(reference.encode(model.whole(look), add_special_tokens=False).ids)
        if (rule(look) is None) != (50 <= count <= 768):
            wrong.append((each.commit, count))
    assert wrong == []
