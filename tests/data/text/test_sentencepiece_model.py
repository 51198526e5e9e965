"""A sentencepiece model reads like any tokenizer: the library's own ids, and control symbols only from the format."""

from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.text.tokenizer import Tokenizer

sentencepiece = pytest.importorskip("sentencepiece")
TEXTS = ["def add(a, b):", "return a + b", "</s> is text here", "año 2026 Ⅷ"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentencepiece")
    sentences = [line for line in Path(__file__).read_text().splitlines() if line.strip()]
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(sentences * 20),
        model_prefix=str(folder / "small"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    return folder / "small.model"


def test_ids_are_the_librarys(model: Path) -> None:
    ours, theirs = Tokenizer(model), sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert ours.encode(TEXTS) == [theirs.Encode(text) for text in TEXTS]
    assert (ours.vocab_size, ours.eod_token, ours.eod_id) == (theirs.vocab_size(), "</s>", theirs.eos_id())


def test_control_symbols_in_text_are_text(model: Path) -> None:
    tokenizer = Tokenizer(model)
    (ids,) = tokenizer.encode(["</s> is text here"])
    assert tokenizer.eod_id not in ids
    assert tokenizer.decode([*ids, tokenizer.eod_id]) == "</s> is text here</s>"


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(OctoError, match="sentencepiece model"):
        Tokenizer(tmp_path / "bad.model")
