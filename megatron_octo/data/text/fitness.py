"""Decision whether the fast library gives the reference's tokens for a ``tokenizer.json``.

Both compute byte-pair encoding by different algorithms: the reference merges pairs in the order of their ranks, the
fast library looks for a sequence of vocabulary words in which every neighbouring pair is the encoding of its bytes.
Each text has exactly one such sequence, the reference's, if the vocabulary is closed: every word is its own encoding,
each is made by one merge, and ids rise with ranks. So only structures of this list are accepted, and every key that is
not on it is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from megatron_octo.data.text.inexpressible import byte_symbols, missing_bytes

# Keys of the model that may be present, and the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "fuse_unk": (None, False, True),  # about unk_token
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}
_BYTE_LEVEL: dict[str, tuple[Any, ...]] = {
    "type": ("ByteLevel",),
    "add_prefix_space": (False,),
    "trim_offsets": (True, False),  # about offsets, which are not used
    "use_regex": (True,),
}
_DIGITS: dict[str, tuple[Any, ...]] = {"type": ("Digits",), "individual_digits": (True,)}
_SECTIONS = {
    *("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor"),
    *("decoder", "model"),
}
# Lead bytes of the planes 4 to 16: their characters always go to the reference (fast_tokenizer._RARE_BEYOND).
_MAY_BE_MISSING = {0xF1, 0xF2, 0xF3, 0xF4}


def unfit(description: Mapping[str, Any]) -> str | None:
    """Return why the fast path does not fit a ``tokenizer.json``, None if it does."""
    model = description.get("model") or {}
    return (
        _unknown("its file has", description, dict.fromkeys(_SECTIONS))
        or _unfit_model(model)
        or (f"it normalises text ({_kind(description['normalizer'])})" if description.get("normalizer") else None)
        or _unfit_split(description.get("pre_tokenizer"))
        or _unfit_vocabulary(model, description)
    )


def splits_as_gpt2(description: Mapping[str, Any]) -> bool:
    """Return whether words never span a change from a letter or sign to a space, whatever the model."""
    return not description.get("normalizer") and _unfit_split(description.get("pre_tokenizer")) is None


def _kind(step: object) -> str:
    return str(step.get("type")) if isinstance(step, Mapping) else str(step)


def _unknown(what: str, found: Mapping[str, Any], known: Mapping[str, tuple[Any, ...] | None]) -> str | None:
    for key, value in found.items():
        values = known.get(key, ())
        if values is not None and not any(value is good or value == good for good in values):
            return f"{what} {key} {value!r}" if isinstance(value, str | bool | float | None) else f"{what} {key}"
    return None


def _unfit_model(model: Mapping[str, Any]) -> str | None:
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not byte-level BPE"
    return _unknown("its model has", model, {**_NEUTRAL, "vocab": None, "merges": None})


def _unfit_split(split: Mapping[str, Any] | None) -> str | None:
    before = split or {}
    steps: Sequence[Mapping[str, Any]] = (
        before.get("pretokenizers", []) if before.get("type") == "Sequence" else [before]
    )
    names = [step.get("type") for step in steps]
    if names not in (["ByteLevel"], ["Digits", "ByteLevel"]):
        return f"it splits text by {' + '.join(map(str, names))}, not as GPT-2 or StarCoder do"
    if steps[-1].get("add_prefix_space", True) or not steps[-1].get("use_regex", True):
        return "its ByteLevel step adds a space or splits nothing"
    if len(steps) == 2 and not steps[0].get("individual_digits"):
        return "it keeps groups of digits together"
    return next(filter(None, map(_unknown, ("its split has",) * 2, steps[::-1], (_BYTE_LEVEL, _DIGITS))), None)


def _unfit_vocabulary(model: Mapping[str, Any], description: Mapping[str, Any]) -> str | None:
    vocabulary: dict[str, int] = model.get("vocab") or {}
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        return "the ids of its vocabulary have gaps or come twice"  # the library would number them anew
    if missing := missing_bytes(description) - _MAY_BE_MISSING:
        return f"its vocabulary lacks {len(missing)} bytes, such as 0x{min(missing):02X}"
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    last = -1
    for merge in merges:
        whole = "".join(merge)
        if len(merge) != 2 or not all(part in vocabulary for part in (*merge, whole)):
            return "a merge needs a word that its vocabulary does not have"
        if vocabulary[whole] <= last:
            return "the ids of its words do not rise with the order of its merges"  # or one is made twice
        last = vocabulary[whole]
    return _unfit_words(vocabulary, merges, description)


def _unfit_words(
    vocabulary: dict[str, int], merges: list[tuple[str, ...]], description: Mapping[str, Any]
) -> str | None:
    """Every word has to be its own encoding, except added tokens: texts that spell one go to the reference."""
    reference = Tokenizer(BPE(vocabulary, merges))  # type: ignore[arg-type]
    words = list(vocabulary)
    spelled = {token["content"] for token in description.get("added_tokens") or []}
    symbols = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    for word, found in zip(words, reference.encode_batch_fast(words, add_special_tokens=False)):
        if found.ids == [vocabulary[word]]:
            continue
        data = bytes(symbols[character] for character in word) if set(word) <= set(symbols) else word.encode()
        if word not in spelled or data != word.encode():
            return f"no merges make its word {word!r}"
    return None
