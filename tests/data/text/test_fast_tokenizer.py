"""The fast path gives what the reference gives; benchmarks/exactness.py tries far more."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.exactness import code_points, differences, fuzzed, short
from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing import encode
from megatron_octo.data.preprocessing.encode import EncodeOptions, Encoder
from megatron_octo.data.preprocessing.input_rows import Lines
from megatron_octo.data.text.fast_tokenizer import FastPath
from megatron_octo.data.text.tokenizer import Tokenizer
from tests.places import SHARED

pytest.importorskip("tokie")
SHARED_FILE = SHARED / "starcoder_tokenizer.json"
SPLITS = ["as it is", "GPT-2", "StarCoder"]


def changed(path: Path, folder: Path, **parts: Any) -> Path:
    content = json.loads(path.read_text())
    for key, value in parts.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and content[key] else value
    (folder / "changed.json").write_text(json.dumps(content))
    return folder / "changed.json"


@pytest.fixture(params=SPLITS)
def tokenizer(request: pytest.FixtureRequest, tokenizer_file: Path, tmp_path: Path) -> Tokenizer:
    path = SHARED_FILE if SHARED_FILE.is_file() else tokenizer_file
    if request.param != "as it is":
        last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": request.param == "StarCoder"}
        steps = [last] if request.param == "GPT-2" else [digits, last]
        content = json.loads(path.read_text())
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        path = tmp_path / "t.json"
        path.write_text(json.dumps(content))
    return Tokenizer(path, backend="tokie")


@pytest.mark.slow
def test_equal_to_the_reference(tokenizer: Tokenizer) -> None:
    assert tokenizer.fast is not None
    assert differences(tokenizer, list(short(2))) == []
    assert differences(tokenizer, list(code_points(step=331))) == []
    assert differences(tokenizer, list(fuzzed(25, tokenizer.control))) == []


@pytest.mark.slow
def test_long_runs(tokenizer: Tokenizer) -> None:
    runs = [" ", "\n", " \n\t", "ab", "-=", "中", "0", "é ", "x"]
    lengths = (85, 128, 199, 207, 240, 255, 256, 257, 300, 10_001)
    texts = [
        f"{before}{(run * size)[:size]}{after}"
        for run in runs
        for size in lengths
        for before in ("", "a\n", "é f")
        for after in ("", " b", "\t's")
    ]
    assert differences(tokenizer, texts) == []


def test_special_tokens_in_text_when_they_are_read_as_tokens(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file, control_text=True, backend="tokie")
    for text in ("a<|endoftext|>b", "x <fim_prefix>\ty <|endoftext|>", "é<|endoftext|>\x0b<commit_msg>"):
        ids, _ = tokenizer.encode_flat([text])
        assert ids.tolist() == tokenizer.encode([text])[0]
        assert tokenizer.eod_id in ids or "<fim" in text


def test_added_tokens_with_spaces(tokenizer_file: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer_file.read_text())
    for text, left in (("two words", False), ("<eats>", True)):
        token = {
            **content["added_tokens"][0],
            "id": 401 + left,
            "content": text,
            "lstrip": left,
            "special": False,
        }
        content["added_tokens"].append(token)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    tokenizer = Tokenizer(path, backend="tokie")
    texts = ["a two words b", "ab  \t<eats> c", "plain text", "two\twords \t's"]
    ids, lengths = tokenizer.encode_flat(texts)
    assert ids.tolist() == [token for row in tokenizer.encode(texts) for token in row]
    assert lengths.tolist() == [len(row) for row in tokenizer.encode(texts)]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"normalizer": {"type": "NFC"}}, "it normalises text (NFC)"),
        ({"pre_tokenizer": {"add_prefix_space": True}}, "adds a space"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "it splits text by Whitespace"),
        ({"model": {"ignore_merges": True}}, "its model has ignore_merges True"),
    ],
)
def test_where_it_does_not_fit_the_reference_encodes(
    tokenizer_file: Path, tmp_path: Path, parts: dict[str, Any], says: str
) -> None:
    path = changed(tokenizer_file, tmp_path, **parts)
    tokenizer = Tokenizer(path, backend="auto")
    assert tokenizer.fast is None and says in tokenizer.why_not
    assert tokenizer.backend.startswith("tokenizers ")
    ids, lengths = tokenizer.encode_flat(["def add", "", "1"])
    assert [ids.tolist()[: lengths[0]], lengths.tolist()] == [
        tokenizer.encode(["def add"])[0],
        [len(row) for row in tokenizer.encode(["def add", "", "1"])],
    ]
    with pytest.raises(OctoError, match="no fast path"):
        Tokenizer(path, backend="tokie")


def test_ids_with_gaps_are_for_the_reference(tokenizer_file: Path, tmp_path: Path) -> None:
    """The fast library numbers tokens from 0 on: with a token less all behind it would be other ones."""
    content = json.loads(tokenizer_file.read_text())
    vocabulary = content["model"]["vocab"]
    token = next(token for token, id in vocabulary.items() if id == 200)
    del vocabulary[token]
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if token not in pair]
    path = tmp_path / "gaps.json"
    path.write_text(json.dumps(content))
    assert Tokenizer(path, backend="auto").why_not == "the ids of its vocabulary have gaps or come twice"


def test_a_difference_stops_the_run_and_names_the_document(
    tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHECKED_EVERY", 1)
    encoder = Encoder(EncodeOptions(str(tokenizer_file), format="text"))
    lines = Lines("a.jsonl", 0, 0, b'{"text": "good"}\n{"text": "bad"}', 1)
    assert encoder(lines).checked == 2
    encode_well = FastPath.encode

    def encode_badly(self: FastPath, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = encode_well(self, texts)
        ids[-1] ^= np.uint32(texts[-1] == "bad")
        return ids, lengths

    monkeypatch.setattr(FastPath, "encode", encode_badly)
    with pytest.raises(OctoError, match="encodes this document differently") as caught:
        encoder(lines)
    assert caught.value.where == "a.jsonl:2" and "--tokenizer-backend reference" in str(caught.value.hint)


def test_the_sample_does_not_depend_on_blocks(tokenizer_file: Path) -> None:
    encoder = Encoder(EncodeOptions(str(tokenizer_file), format="text"))
    rows = [b'{"text": "%d"}' % number for number in range(9000)]
    whole = encoder(Lines("a", 3, 0, b"\n".join(rows), 1)).checked
    half = len(b"\n".join(islice(rows, 4000))) + 1
    data = b"\n".join(rows)
    parts = [Lines("a", 3, 0, data[: half - 1], 1), Lines("a", 3, half, data[half:], None)]
    assert 1 <= whole == sum(encoder(part).checked for part in parts) <= 30
    assert encoder(parts[0], check_first=50).checked >= 50
