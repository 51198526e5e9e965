"""Which tokenizers the fast path takes, and that those that it takes give the reference's tokens."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tokenizer_fuzz import campaign, check, documents, merged
from megatron_octo.data.text.fitness import splits_as_gpt2, unfit
from tests.places import SHARED

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def tree(tokenizer_file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tokenizer_file.read_text())
    return found


def drop(tree: dict[str, Any], symbol: str) -> None:
    model = tree["model"]
    model["merges"] = [merge for merge in model["merges"] if symbol not in "".join(merge)]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    model["vocab"] = {word: number for number, word in enumerate(word for word in words if symbol not in word)}


def swap(tree: dict[str, Any]) -> None:
    vocabulary, merges = tree["model"]["vocab"], tree["model"]["merges"]
    one, two = ("".join(merge) for merge in merges[:2])
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


REFUSED: list[tuple[str, Change]] = [
    ("lacks 1 bytes, such as 0x71", lambda tree: drop(tree, "q")),
    ("gaps or come twice", lambda tree: tree["model"]["vocab"].update(zzz=5)),
    ("gaps or come twice", lambda tree: tree["model"]["vocab"].update(zzz=5000)),
    (
        "no merges make its word 'zzz'",
        lambda tree: tree["model"]["vocab"].update(zzz=len(tree["model"]["vocab"])),
    ),
    ("do not rise", lambda tree: tree["model"]["merges"].append(tree["model"]["merges"][0])),
    ("do not rise", lambda tree: tree["model"]["merges"].reverse()),
    ("do not rise", swap),
    ("does not have", lambda tree: tree["model"]["merges"].append(["z", "z"])),
    ("no merges make its word", lambda tree: tree["model"]["merges"].pop()),
    ("dropout 0.1", lambda tree: tree["model"].update(dropout=0.1)),
    ("byte_fallback True", lambda tree: tree["model"].update(byte_fallback=True)),
    ("ignore_merges True", lambda tree: tree["model"].update(ignore_merges=True)),
    ("continuing_subword_prefix '##'", lambda tree: tree["model"].update(continuing_subword_prefix="##")),
    ("unk_token 'a'", lambda tree: tree["model"].update(unk_token="a")),
    ("its model has new_option True", lambda tree: tree["model"].update(new_option=True)),
    ("its file has new_section", lambda tree: tree.update(new_section={})),
    ("its split has new_flag", lambda tree: tree["pre_tokenizer"].update(new_flag=[])),
    ("its model is Unigram", lambda tree: tree["model"].update(type="Unigram")),
    ("it normalises text (NFC)", lambda tree: tree.update(normalizer={"type": "NFC"})),
    ("not as GPT-2 or StarCoder do", lambda tree: tree.update(pre_tokenizer=None)),
    (
        "groups of digits",
        lambda tree: tree.update(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": False}, tree["pre_tokenizer"]],
            }
        ),
    ),
]


@pytest.mark.parametrize(("says", "change"), REFUSED, ids=[says for says, _ in REFUSED])
def test_what_is_not_proven_equal_is_for_the_reference(tree: dict[str, Any], says: str, change: Change) -> None:
    assert unfit(tree) is None
    change(tree)
    assert says in str(unfit(tree))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(truncation={"max_length": 3}, padding={"pad_id": 1}, post_processor={"a": 1}),
        lambda tree: tree["model"].update(dropout=0.0, fuse_unk=True, end_of_word_suffix=""),
        lambda tree: tree["model"].update(merges=[" ".join(merge) for merge in tree["model"]["merges"]]),
        lambda tree: drop(tree, "ñ"),  # stands for the byte 0xF1, of planes in which nothing is assigned
    ],
)
def test_what_changes_no_token(tree: dict[str, Any], change: Change) -> None:
    change(tree)
    assert unfit(tree) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared is not here")
def test_starcoder_is_taken() -> None:
    assert unfit(json.loads((SHARED / "starcoder_tokenizer.json").read_text())) is None


def test_which_splits_may_be_cut_at_spaces(tree: dict[str, Any]) -> None:
    assert splits_as_gpt2(tree)
    assert not splits_as_gpt2({**tree, "normalizer": {"type": "NFC"}})
    assert not splits_as_gpt2({**tree, "pre_tokenizer": {"type": "Whitespace"}})


def test_saved_limits_and_paddings_change_nothing(tree: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tokie")
    tree["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    tree["padding"] = {"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None}
    tree["padding"] |= {"pad_id": 1, "pad_type_id": 0, "pad_token": "a"}
    assert check(tree, ["def add(a, b):\n    return a + b", "", "x"], tmp_path) == ("fast", [])


def test_generated_tokenizers_differ_nowhere() -> None:
    """benchmarks/tokenizer_fuzz.py tries thousands."""
    pytest.importorskip("tokie")
    taken, bad = campaign(60, 40, seed=7)
    assert bad == []
    assert taken["fast"] >= 10 and taken["reference"] >= 10


def test_the_comparison_sees_a_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard that lets everything through, a word that no merge makes is seen."""
    pytest.importorskip("tokie")
    monkeypatch.setattr("megatron_octo.data.text.tokenizer.unfit", lambda description: None)
    source = random.Random(1)
    tree = merged(source)
    tree["model"]["vocab"]["abcde"] = len(tree["model"]["vocab"])
    tree["model"]["merges"] = []
    how, found = check(tree, ["abcde", *documents(tree, source, 20)], tmp_path)
    assert how == "fast" and "abcde" in found
