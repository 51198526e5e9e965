"""A fast tokenizer behind a guard: what it is known to get wrong goes to the reference.

``tokie`` encodes byte-level BPE some 25 times faster than ``tokenizers``. Compared over all strings of
up to five characters of every class, over every code point in ten surroundings and over long runs, version
0.1 differs from the reference in four ways: a contraction (``'s``) after a tab or its like; vertical tab and
form feed in a run of spaces; characters whose class changed between versions of Unicode or that are
alphabetic without being letters (``Ⅷ``, ``Ⓐ``); words of 256 bytes and more, such as a long run of spaces.
:meth:`FastPath.split` finds these and more, and cuts them out of a text at places where the split into
words does not depend on what lies on the other side.
"""

import functools
import importlib.metadata
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # rows are spread over processes, not over threads

LIBRARY = "tokie"
VERSIONS = "0.1."  # those that the guard was measured on
_SIGNS = (
    "\t'",
    "\n'",
    "\r'",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x1f",
)  # in ASCII; a contraction needs more
_LONG, _STRIDE = 192, 16  # bytes of a word from which on it may be too long; see _long_words
_CUT = re.compile(r"\S[ \t\n\r]")
# Beyond the basic plane only emoji and the ideographs of extension B are common enough to be worth it.
_RARE_BEYOND = (
    "\U00010000-\U0001f2ff\U0001f650-\U0001f67f\U0001f6c6-\U0001f90f\U0001f93b-\U0001ffff\U0002a6d7-\U0010ffff"
)

# One bit for each class of the byte-level split; bytes beyond ASCII may be of any.
_CLASSES = np.full(256, 15, np.uint8)
_CLASSES[:128] = [
    1 if chr(code).isspace() else 2 if chr(code).isalpha() else 4 if chr(code).isdigit() else 8 for code in range(128)
]


# Limits and paddings saved with a tokenizer would change its ids; what is spelled goes to the reference.
_NOTHING_ELSE: dict[str, Any] = {
    **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor")),
    "added_tokens": [],
}


@functools.cache
def _doubtful() -> re.Pattern[str]:
    """Characters that libraries may class differently: numbers beyond ASCII, and what changed since Unicode 3.2."""
    old = unicodedata.ucd_3_2_0.category

    def doubtful(character: str) -> bool:
        kind = unicodedata.category(character)
        return kind[0] == "N" or kind != old(character) or kind in ("Cn", "Co", "Cs")

    codes = [code for code in range(0x80, 0x10000) if doubtful(chr(code)) or 0x24B6 <= code <= 0x24E9]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    inside = "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges)
    # One class without alternatives: that is what makes the search fast.
    return re.compile(f"[{inside}{_RARE_BEYOND}]")


class FastPath:
    """The fast library on the tokenizer of a description.

    Args:
        description: content of ``tokenizer.json``, that :func:`megatron_octo.data.text.fitness.unfit` accepts.

    Raises:
        ImportError: the library is not installed.
        ValueError: it does not take this tokenizer, or it is another version.
    """

    def __init__(self, description: Mapping[str, Any]):
        import tokie

        self.version = importlib.metadata.version(LIBRARY)
        if not self.version.startswith(VERSIONS):
            raise ValueError(f"{LIBRARY} {self.version} was not measured, {VERSIONS}* was")
        # Added tokens are left out: where a text spells one, the reference encodes.
        added = description.get("added_tokens") or []
        spelled = "|".join(re.escape(token["content"]) for token in added if token["content"])
        # One that holds a space, or swallows spaces around it, may lie across a cut.
        wide = [re.escape(token["content"]) for token in added if _is_wide(token)]
        self._wide = re.compile("|".join(wide) or r"(?!)")
        self._spelled = re.compile(spelled or r"(?!)")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            kept = {
                key: description[key] for key in ("version", "pre_tokenizer", "decoder", "model") if key in description
            }
            path.write_text(json.dumps({**_NOTHING_ELSE, **kept}))
            try:
                self._library: Any = tokie.Tokenizer.from_json(str(path))
            except Exception as error:  # the binding has its own kind
                raise ValueError(f"{LIBRARY} does not take it: {error}") from None

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Encode all texts; returns ids end to end, uint32 [N], and the number per text, int64 [len(texts)]."""
        if not texts:
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        ids, lengths = self._library.encode_batch_flat(list(texts), add_special_tokens=False)
        return ids, lengths.astype(np.int64)

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Pieces of a text, and whether each is for the reference. Most texts are one piece."""
        if self._wide.search(text):
            return [(text, True)]
        found = _long_words(text)
        for sign in _SIGNS:
            place = text.find(sign)
            while place >= 0:
                found.append((place, place + len(sign)))
                place = text.find(sign, place + 1)
        found += [match.span() for match in self._spelled.finditer(text)]
        if not text.isascii():
            found += [match.span() for match in _doubtful().finditer(text)]
        if not found:
            return [(text, False)]
        pieces, done = [], 0
        for begin, end in _spans(text, sorted(found)):
            if begin > done:
                pieces.append((text[done:begin], False))
            pieces.append((text[begin:end], True))
            done = end
        if done < len(text) or not text:
            pieces.append((text[done:], False))
        return pieces


def _is_wide(token: Mapping[str, Any]) -> bool:
    return bool(token.get("lstrip") or token.get("rstrip") or re.search(r"\s", token["content"]))


def _long_words(text: str) -> list[tuple[int, int]]:
    """Places within words of more than 200 bytes: every 16th byte is looked at, 12 of one class are a hit."""
    if len(text) < _LONG // 4:
        return []
    data = np.frombuffer(text.encode(), np.uint8)
    kinds = _CLASSES[data[::_STRIDE]]
    runs = kinds  # becomes not zero where 12 in a row have a class in common
    for step in (1, 2, 4, 4):
        runs = runs[:-step] & runs[step:]
    if not runs.any():
        return []
    found: list[tuple[int, int]] = []
    for kind in (1, 2, 4, 8):
        edges = np.flatnonzero(np.diff((kinds & kind) != 0, prepend=False, append=False))
        for begin, end in edges.reshape(-1, 2)[np.diff(edges)[::2] >= _LONG // _STRIDE].tolist():
            found.append((begin * _STRIDE, (end - 1) * _STRIDE))
    if text.isascii():
        return found
    # From bytes to characters, counting from place to place.
    places = np.unique(np.array(found, np.int64))
    starts = [int(np.count_nonzero(part & 0xC0 != 0x80)) for part in np.split(data, places)[:-1]]
    characters = dict(zip(places.tolist(), np.cumsum(starts).tolist()))
    return [(characters[first], max(characters[last], characters[first] + 1)) for first, last in found]


def _spans(text: str, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Doubtful places, widened to the next cuts: between a character that is no space and a space.

    No word of the byte-level split goes over such a place, and none looks beyond it.
    """
    done = 0
    for begin, end in places:
        if end <= done:
            continue
        begin = max(begin, done)
        while begin > done and not (text[begin] in " \t\n\r" and not text[begin - 1].isspace()):
            begin -= 1
        cut = _CUT.search(text, max(end - 1, begin))
        done = cut.start() + 1 if cut else len(text)
        yield begin, done
