"""Tokens that begin, end and pad a text: as an option, the data, the source or the tokenizer names them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from megatron_octo.data.text.tokenizer import Tokenizer

KEY = "special_tokens"  # of a manifest's provenance: ids that a Hugging Face directory records
ENDS = "ends"  # of a run's: token and id that end a document in its data, one for each choice
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


def open_tokenizer(path: Path, provenance: Mapping[str, Any], eod_token: str | None) -> Tokenizer:
    """Open the tokenizer of an export with the end of a document that the weights were trained with.

    ``eod_token``, the option, comes first, then the data's, the source's, and the only one that the vocabulary has.

    Raises:
        OctoError: the file is not a tokenizer, or no single token ends a document.
    """
    ends = provenance.get(ENDS) or []
    if eod_token is None and len(ends) > 1:
        raise OctoError(
            f"the data end documents with several tokens: {', '.join(each['token'] for each in ends)}",
            where=path,
            hint="name one with --eod-token",
        )
    if eod_token is None and ends:
        tokenizer = Tokenizer(path, ends[0]["token"])
        if tokenizer.eod_id != ends[0]["id"]:
            raise OctoError(
                f"{ends[0]['token']!r} is token {tokenizer.eod_id} here, in the data it was {ends[0]['id']}",
                where=path,
                hint="name the tokenizer.json that the data were made with: --tokenizer",
            )
        return tokenizer
    known = provenance.get(KEY, {}).get(_EOS)
    if eod_token is None and known is not None:
        number = known[0] if isinstance(known, list) else known
        spelled = {each: token for token, each in Tokenizer.vocabulary(path).items()}
        eod_token = spelled.get(number)
    return Tokenizer(path, eod_token)


def special_tokens(eod: int | None, provenance: Mapping[str, Any], chosen: bool = False) -> dict[str, Any]:
    """Return the ids of an export: the source's, or else the end of a document as all three.

    Args:
        eod: id of the end of a document, if it is known.
        provenance: of the source's manifest.
        chosen: the end of a document was given as an option, which comes first.
    """
    ends, known = provenance.get(ENDS), provenance.get(KEY, {})
    if eod is None and ends and len(ends) == 1:
        eod = ends[0]["id"]
    if eod is not None and (chosen or ends or known.get(_EOS) is None):
        return {_BOS: eod, _EOS: eod, _PAD: eod}
    return {key: known.get(key) for key in (_BOS, _EOS, _PAD)}


def configured(tokens: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids for config.json: null where they are unknown, since its default is GPT-2's."""
    return {key: tokens[key] for key in (_BOS, _EOS)}
