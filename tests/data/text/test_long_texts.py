"""Long texts are encoded in parts, to the ids of the whole."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tokenizer_fuzz import documents, merged
from megatron_octo.data.text import long_texts
from megatron_octo.data.text.tokenizer import Tokenizer

RUNS = [
    "x",
    "ab",
    " ",
    "\n",
    " \n",
    "中",
    "中文\uff0c",
    "0",
    "1a",
    "-",
    "'",
    "'s",
    "é",
    "😀",
    "ⅷ",
    "\u0301",
    "don't",
    "a ",
]
RUNS += ["<|endoftext|>", "a<fim_prefix>", "\x1c", "\x0b", "return ", "def f(x):\n", "\u1680", "٣", "ж"]


@pytest.fixture(params=["auto", "reference"])
def tokenizer(request: pytest.FixtureRequest, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    monkeypatch.setattr(long_texts, "SIZE", 100)
    monkeypatch.setattr("megatron_octo.data.text.tokenizer.LONG", 100)
    monkeypatch.setattr(long_texts, "_AHEAD", 40)
    return Tokenizer(tokenizer_file, backend=request.param)


def check(tokenizer: Tokenizer, text: str) -> None:
    ids, lengths = tokenizer.encode_flat([text])
    assert ids.tolist() == tokenizer.encode([text])[0], text[:80]
    assert lengths.tolist() == [len(ids)]


@pytest.mark.parametrize("run", RUNS)
def test_runs_of_anything(tokenizer: Tokenizer, run: str) -> None:
    for size in (101, 333, 1000):
        check(tokenizer, (run * size)[:size])
        check(tokenizer, "def " + (run * size)[:size] + " end")


def test_mixed_texts(tokenizer: Tokenizer) -> None:
    source = random.Random(3)
    for _ in range(60):
        check(tokenizer, "".join(source.choice(RUNS) * source.randint(1, 300) for _ in range(4)))


def test_several_texts_at_once(tokenizer: Tokenizer) -> None:
    texts = ["", "short", "x" * 500, "a b " * 90, ""]
    ids, lengths = tokenizer.encode_flat(texts)
    wanted = tokenizer.encode(texts)
    assert lengths.tolist() == list(map(len, wanted)) and ids.tolist() == [each for found in wanted for each in found]


def test_parts_are_small(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a single word, too, where the vocabulary is closed."""
    if tokenizer.fast is None:
        pytest.skip("words are cut with a closed vocabulary only")
    sizes: list[int] = []
    real = tokenizer._encode_flat

    def spy(texts: Any) -> Any:
        sizes.extend(map(len, texts))
        return real(texts)

    assert tokenizer._long is not None
    monkeypatch.setattr(tokenizer._long, "_encode", spy)
    for run in ("x", "中", " ", "a b ", "-"):
        tokenizer.encode_flat([run * 5000])
    assert max(sizes) <= 400


@pytest.mark.parametrize("seed", range(12))
def test_generated_tokenizers(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few letters and deep merges: whether a run may be cut depends on the tokens."""
    pytest.importorskip("tokie")
    for name, size in (("SIZE", 60), ("_AHEAD", 30)):
        monkeypatch.setattr(long_texts, name, size)
    monkeypatch.setattr("megatron_octo.data.text.tokenizer.LONG", 60)
    source = random.Random(seed)
    tree = merged(source)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tree))
    tokenizer = Tokenizer(path, backend="auto")
    for text in documents(tree, source, 40):
        check(tokenizer, text * 30)
    for _ in range(60):
        check(tokenizer, "".join(source.choices("abcde", k=source.randint(61, 600))))
        check(tokenizer, "".join(source.choices(["a", "b", "ab", "1", " ", "'s", "-"], k=400)))
