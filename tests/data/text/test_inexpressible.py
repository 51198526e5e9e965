"""What a vocabulary cannot express: found for every code point, counted in data sets, and really lost."""

import json
import random
from pathlib import Path

import pytest

from megatron_octo import preprocess
from megatron_octo.data.dataset.manifest import read_manifest
from megatron_octo.data.preprocessing.encode import LOSSY
from megatron_octo.data.text.inexpressible import LossFinder, byte_symbols, inexpressible, missing_bytes
from megatron_octo.data.text.tokenizer import Tokenizer
from tests.data.conftest import CONTROL, train_tokenizer
from tests.places import SHARED


@pytest.mark.slow
@pytest.mark.parametrize("missing", [{0xF1}, {0xE3, 0xC3}, {0x80}, {0x41, 0xBF}, {0xED}, {0xF4, 0x8F}])
def test_every_code_point(missing: set[int]) -> None:
    pattern = inexpressible(missing)
    assert pattern is not None
    codes = [*range(0x3000), *range(0xC000, 0xD800), *range(0xE000, 0x12000)]
    codes += random.Random(0).sample(range(0x12000, 0x110000), 30_000)
    for code in (*codes, 0x3FFFF, 0x40000, 0x7FFFF, 0x80000, 0x10FFFF):
        assert bool(pattern.match(chr(code))) == (not missing.isdisjoint(chr(code).encode())), hex(code)


def without(tokenizer: Path, output: Path, *bytes_left_out: int) -> Path:
    """A tokenizer whose vocabulary lacks some bytes, and all merges with them."""
    tree = json.loads(tokenizer.read_text())
    symbols = {byte_symbols()[byte] for byte in bytes_left_out}
    model = tree["model"]
    model["merges"] = [pair for pair in model["merges"] if symbols.isdisjoint("".join(pair))]
    model["vocab"] = {token: id for token, id in model["vocab"].items() if symbols.isdisjoint(token)}
    output.write_text(json.dumps(tree))
    return output


@pytest.mark.parametrize("left_out", [(0xF1, 0xC0, 0xF5), (0xC3,), (0x40,), ()])
def test_agrees_with_the_library(left_out: tuple[int, ...], tmp_path: Path) -> None:
    """A text that is found does not come back; one that is not found does."""
    whole = train_tokenizer(tmp_path / "whole.json", CONTROL)
    tokenizer = Tokenizer(without(whole, tmp_path / "part.json", *left_out))
    assert tokenizer.loses.lossy == bool(left_out)
    seen = set()
    for text in (
        "plain",
        "a@b",
        "é",
        "日本",
        "x\U0001f600y",
        "\U00040000",
        "é \U0007ffff",
        "\U00080000@",
        "",
    ):
        found = tokenizer.loses(text)
        seen.add(found)
        assert found == (tokenizer.decode(tokenizer.encode([text])[0]) != text), text
    assert seen == ({True, False} if left_out else {False})


def test_other_kinds_of_tokenizers_are_not_asked() -> None:
    assert not LossFinder({}).lossy
    assert missing_bytes({"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": None}) == set()
    assert missing_bytes({"model": {"type": "WordPiece", "vocab": {}}}) == set()


def test_counted_in_the_manifest(tmp_path: Path) -> None:
    whole = train_tokenizer(tmp_path / "whole.json", CONTROL)
    tokenizer = without(whole, tmp_path / "part.json", 0xF1)
    texts = ["plain", "one \U00040000 here", "日本 \U0001f600", "\U00050000\U00060000 and there"]
    rows = [{"inputs": text, "outputs": text} for text in texts]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, file, notes in (("part", tokenizer, {LOSSY: 2}), ("whole", whole, {})):
        arguments = ["--tokenizer", str(file), "--output-prefix", str(tmp_path / f"{name}_data")]
        assert preprocess.main(["--input", str(tmp_path / "rows.jsonl"), *arguments]) == 0
        manifest = read_manifest(tmp_path / f"{name}_data")
        assert manifest is not None
        assert {reason: count for reason, count in manifest.notes.items() if reason == LOSSY} == notes


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs StarCoder's tokenizer")
def test_starcoder_lacks_four_planes_in_which_nothing_is() -> None:
    tokenizer = Tokenizer(SHARED / "starcoder_tokenizer.json")
    assert [tokenizer.loses(chr(code)) for code in (0x3FFFF, 0x40000, 0x7FFFF, 0x80000)] == [
        False,
        True,
        True,
        False,
    ]
