"""The end of a document in an export: as an option, the data, the source or the tokenizer names it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.special_tokens import ENDS, KEY, open_tokenizer, special_tokens
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.conversion.models import from_hf, small_model, write_hf

CONTROL = ("<eos>", "</s>", "<END>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several tokens of it may end a document: ids 2 to 5."""
    made = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    made.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize(
    ("provenance", "option", "expected"),
    [
        ({}, "<END>", 4),
        ({ENDS: [{"token": "<|im_end|>", "id": 5}]}, None, 5),
        ({ENDS: [{"token": "<|im_end|>", "id": 5}]}, "</s>", 3),
        ({KEY: {"eos_token_id": [4, 5]}}, None, 4),
        ({KEY: {"eos_token_id": 5}, ENDS: [{"token": "</s>", "id": 3}]}, None, 3),
    ],
)
def test_which_token_ends(provenance: dict[str, Any], option: str | None, expected: int, tokenizer: Path) -> None:
    assert open_tokenizer(tokenizer, provenance, option).eod_id == expected


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        ({}, "several tokens may end"),
        (
            {ENDS: [{"token": "<END>", "id": 4}, {"token": "</s>", "id": 3}]},
            "with several tokens: <END>, </s>",
        ),
        ({ENDS: [{"token": "<END>", "id": 3}]}, "'<END>' is token 4 here, in the data it was 3"),
        ({ENDS: [{"token": "<none>", "id": 3}]}, "no token '<none>'"),
    ],
)
def test_no_end_is_guessed(provenance: dict[str, Any], words: str, tokenizer: Path) -> None:
    with pytest.raises(OctoError, match=words):
        open_tokenizer(tokenizer, provenance, None)


def test_ids_of_an_export() -> None:
    source = {KEY: {"bos_token_id": 1, "eos_token_id": [4, 5], "pad_token_id": 2}}
    assert special_tokens(4, source) == source[KEY]
    assert special_tokens(3, source, chosen=True) == dict.fromkeys(source[KEY], 3)
    trained = {**source, ENDS: [{"token": "</s>", "id": 3}]}
    assert special_tokens(3, trained) == special_tokens(None, trained) == dict.fromkeys(source[KEY], 3)


def test_a_chat_model_keeps_its_ends_and_its_template(tokenizer: Path, tmp_path: Path) -> None:
    """Through a checkpoint of another layout, and loaded by transformers again."""
    from transformers import AutoTokenizer

    write_hf(tmp_path / "chat", small_model(num_layers=2))
    (tmp_path / "chat/tokenizer.json").write_bytes(tokenizer.read_bytes())
    generation = {"eos_token_id": [5, 4], "bos_token_id": 2, "temperature": 0.5}
    (tmp_path / "chat/generation_config.json").write_text(json.dumps(generation))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "chat_template": TEMPLATE,
    }
    (tmp_path / "chat/tokenizer_config.json").write_text(json.dumps(settings))
    from_hf(tmp_path / "chat", tmp_path / "ours", tensor=2)
    for source, out in (("chat", "direct"), ("ours", "through")):
        to_hf(tmp_path / source, tmp_path / out)
        assert json.loads((tmp_path / out / "generation_config.json").read_text()) == generation
        assert json.loads((tmp_path / out / "config.json").read_text())["eos_token_id"] == [5, 4]
        loaded = AutoTokenizer.from_pretrained(tmp_path / out)
        assert loaded.chat_template == TEMPLATE and loaded.eos_token == "<|im_end|>"
    (tmp_path / "ours/tokenizer_config.json").write_text("{}")
    with pytest.raises(OctoError, match=r"tokenizer_config\.json has changed"):
        to_hf(tmp_path / "ours", tmp_path / "damaged")
    (tmp_path / "ours/tokenizer_config.json").write_text(json.dumps(settings))
    to_hf(tmp_path / "ours", tmp_path / "other", eod_token="</s>")
    assert json.loads((tmp_path / "other/generation_config.json").read_text())["eos_token_id"] == 3
    assert AutoTokenizer.from_pretrained(tmp_path / "other").eos_token == "</s>"
