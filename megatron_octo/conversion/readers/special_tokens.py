"""Tokens that begin and end a text, of a model that comes without its tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo.common.files import read_json

KEY = "special_tokens"  # of a manifest's provenance
_BOS, _EOS, _PAD = "bos_token_id", "eos_token_id", "pad_token_id"
# What generates reads the first; models from before it have the second alone.
_FILES = ("generation_config.json", "config.json")


def read_special_tokens(directory: Path, vocab_size: int) -> dict[str, Any]:
    """What a Hugging Face directory says of them; several tokens may end a text.

    An id that the vocabulary has not is nobody's choice: transformers fills in GPT-2's, whatever the model.
    """
    found: dict[str, Any] = {}
    for file in _FILES:
        tree = read_json(directory / file) if (directory / file).is_file() else {}
        for key in (_BOS, _EOS, _PAD) if isinstance(tree, Mapping) else ():
            value = tree.get(key)
            ids = value if isinstance(value, list) and value and key == _EOS else [value]
            if key not in found and all(type(each) is int and 0 <= each < vocab_size for each in ids):
                found[key] = value
    return found


def special_tokens(eod: int | None, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an export: a tokenizer's end of a document is all three, without one they are what the source said."""
    if eod is not None:
        return {_BOS: eod, _EOS: eod, _PAD: eod}
    known = provenance.get(KEY, {})
    return {key: known.get(key) for key in (_BOS, _EOS, _PAD)}


def configured(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Those that config.json has: null where they are not known, since its default is GPT-2's."""
    return {key: tokens[key] for key in (_BOS, _EOS)}
