import json
import os
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.data.text.tokenizer import Tokenizer
from tests.data.conftest import CONTROL, train_tokenizer


def test_control_tokens_in_text_are_text(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    text = "a<|endoftext|>b<commit_after>"
    (ids,) = tokenizer.encode([text])
    assert not set(ids) & {tokenizer.control_id(token, "test") for token in CONTROL}
    assert tokenizer.decode(ids) == text
    assert tokenizer.holds_control(text)
    assert not tokenizer.holds_control("endoftext")


def test_control_tokens_in_text_are_read_when_asked_for(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file, control_text=True)
    (ids,) = tokenizer.encode(["a<|endoftext|>"])
    assert ids[-1] == tokenizer.eod_id == 0


def test_identity(tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    assert tokenizer.digest == digest_file(tokenizer_file)
    assert tokenizer.vocab_size == 1 + max(json.loads(tokenizer_file.read_text())["model"]["vocab"].values())
    assert tokenizer.eod_token == "<|endoftext|>"


def test_added_tokens_count_in_the_vocabulary(tokenizer_file: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer_file.read_text())
    added = {**content["added_tokens"][0], "id": 70000, "content": "<late>"}
    content["added_tokens"].append(added)
    (tmp_path / "t.json").write_text(json.dumps(content))
    # The library gives a late token the next free id, whatever the file says; both are above the model's own.
    tokenizer = Tokenizer(tmp_path / "t.json")
    assert tokenizer.vocab_size == tokenizer.control_id("<late>", "test") + 1
    assert tokenizer.vocab_size > Tokenizer(tokenizer_file).vocab_size


def test_saved_truncation_is_ignored(tokenizer_file: Path, tmp_path: Path) -> None:
    content = json.loads(tokenizer_file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "t.json").write_text(json.dumps(content))
    text = "def add(a, b): return a + b # and more"
    (ids,) = Tokenizer(tmp_path / "t.json").encode([text])
    assert Tokenizer(tmp_path / "t.json").decode(ids) == text


@pytest.mark.parametrize(
    ("control", "eod_token", "says"),
    [
        (["<x>"], None, "no token that ends a document"),
        (["</s>", "<eos>"], None, "several tokens may end a document: </s>, <eos>"),
        (["</s>"], "<end>", "has no token '<end>'"),
    ],
)
def test_unclear_end_of_document(tmp_path: Path, control: list[str], eod_token: str | None, says: str) -> None:
    path = train_tokenizer(tmp_path / "t.json", control)
    with pytest.raises(OctoError) as caught:
        Tokenizer(path, eod_token)
    assert says in caught.value.what
    assert caught.value.where == str(path)


def test_other_spelling_of_the_end(tmp_path: Path) -> None:
    assert Tokenizer(train_tokenizer(tmp_path / "t.json", ["<pad>", "</s>"])).eod_token == "</s>"
    assert Tokenizer(tmp_path / "t.json", "<pad>").eod_id == 0


def test_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a": 1}')
    with pytest.raises(OctoError, match="not a tokenizer"):
        Tokenizer(tmp_path / "t.json")
    with pytest.raises(FileNotFoundError):
        Tokenizer(tmp_path / "missing.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OctoError, match="not a file"):
        Tokenizer(tmp_path / "pipe.json")
