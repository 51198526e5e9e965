"""Token ids that begin, end and pad a text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo.common.files import read_json

KEY = "special_tokens"  # of a manifest's provenance
_BOS, _EOS, _PAD = "bos_token_id", "eos_token_id", "pad_token_id"
# Generation reads the first; older models have only the second.
_FILES = ("generation_config.json", "config.json")


def read_special_tokens(directory: Path, vocab_size: int) -> dict[str, Any]:
    """Return the ids that a Hugging Face directory records; several tokens may end a text.

    Ids outside the vocabulary are left out: transformers fills in GPT-2's for any model.
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
    """Return the ids of an export: the end of a document as all three, or else the source's."""
    if eod is not None:
        return {_BOS: eod, _EOS: eod, _PAD: eod}
    known = provenance.get(KEY, {})
    return {key: known.get(key) for key in (_BOS, _EOS, _PAD)}


def configured(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids for config.json: null where they are unknown, since its default is GPT-2's."""
    return {key: tokens[key] for key in (_BOS, _EOS)}
