"""Encoding of very long texts in parts: linear time and bounded memory, and the ids of the text as a whole.

A text may be cut where the split into words does not depend on what lies on the other side: between a character and a
space, or between characters of two kinds. In a run of one kind, which may be a single word of 100 MB, it may be cut
between two tokens that stay two tokens when their bytes are encoded together, if the vocabulary is closed
(:mod:`megatron_octo.data.text.fitness`): a sequence of words is the encoding of its bytes if all neighbours are.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import BPE

from megatron_octo.data.text.inexpressible import byte_symbols

LONG = 1 << 18  # characters from which on a text is encoded in parts
SIZE = 1 << 16  # characters of a part
_NEAR = 1 << 12  # characters in which a place to cut is looked for
_BACK, _AHEAD = 128, 512  # tokens before a cut that are tried, characters behind it
_SPACE = re.compile(r"\S[ \t\n\r]")
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")


class LongTexts:
    """Encoder of long texts for tokenizers that split as GPT-2 or StarCoder do.

    Args:
        description: content of ``tokenizer.json``, which :func:`.fitness.splits_as_gpt2` accepts.
        reference: the reference on it.
        encode: encodes a list of texts; returns ids end to end, and lengths.
        closed: whether the vocabulary is closed, so that runs may be cut.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        reference: Any,
        encode: Callable[[Sequence[str]], tuple[NDArray[np.integer], NDArray[np.int64]]],
        closed: bool,
    ):
        self._split, self._encode, self._closed = reference.pre_tokenizer, encode, closed
        self._digits = (description.get("pre_tokenizer") or {}).get("type") == "Sequence"
        model = description["model"]
        added = description.get("added_tokens") or []
        self._spelled = [(token["content"], bool(token.get("single_word"))) for token in added if token["content"]]
        self._wide = any(
            token.get("lstrip") or token.get("rstrip") or re.search(r"\s", token["content"]) for token in added
        )
        self._dtype = np.uint16 if max(model["vocab"].values(), default=0) < 65500 - len(added) else np.uint32
        self._vocabulary, self._merges = model["vocab"], model["merges"]
        self.kind = functools.lru_cache(maxsize=1 << 16)(self._kind)

    @functools.cached_property
    def _words(self) -> dict[int, str]:
        return {number: word for word, number in self._vocabulary.items()}

    @functools.cached_property
    def _bare(self) -> Any:
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in self._merges]
        return Tokenizer(BPE(self._vocabulary, pairs))  # type: ignore[arg-type]

    def _kind(self, character: str) -> str:
        """Return which run of the split a character belongs to: letter, sign, number or space."""
        for kind, before in (("letter", "a"), ("sign", "-"), ("number", "1")):
            if len(self._split.pre_tokenize_str(before + character)) == 1:
                return kind
        return "number" if character.isnumeric() else "space"

    def encode(self, text: str) -> NDArray[np.integer]:
        """Encode a text; returns its ids, uint16 or uint32 [N]."""
        found: list[NDArray[np.integer]] = []
        begin, last = 0, -1
        while begin < len(text):
            end, inside = self._cut(text, begin)
            ids = self._encode([text[begin:end]])[0]
            if last >= 0 and not self._stay_apart(last, int(ids[0])):
                return self._encode([text])[0].astype(self._dtype)  # seldom: the parts do not fit together
            last = -1
            if inside and (cut := self._cut_inside(text, begin, end, ids)):
                kept, end = cut
                ids, last = ids[:kept], int(ids[kept - 1])
            elif inside:
                return self._encode([text])[0].astype(self._dtype)
            found.append(ids.astype(self._dtype))
            begin = end
        return np.concatenate(found) if found else np.empty(0, self._dtype)

    def _cut(self, text: str, begin: int) -> tuple[int, bool]:
        """Return the end of a part, and whether it lies inside a run, where tokens have to be looked at."""
        target = begin + SIZE
        if target >= len(text) or self._wide:
            return len(text), False
        while target < len(text):
            space = _SPACE.search(text, target, target + _NEAR)
            if space and self._is_free(text, space.start() + 1):
                return space.start() + 1, False
            near = range(target, min(target + _NEAR // 16, len(text) - 1))
            for place in near:
                if self._is_edge(text, place) and self._is_free(text, place):
                    return place, False
            if self._closed and any(self._is_inside(text, place) for place in near[:16]):
                return min(target + _AHEAD, len(text)), target + _AHEAD < len(text)
            target += _NEAR
        return len(text), False

    def _is_edge(self, text: str, place: int) -> bool:
        left, right = self.kind(text[place - 1]), self.kind(text[place])
        if left == right:
            return self._digits and left == "number"
        return left != "space" and not (text[place - 1] == "'" and right == "letter")

    def _is_inside(self, text: str, place: int) -> bool:
        """Return whether the words on both sides stay as they are, except for the one that goes over the place."""
        around = text[max(place - 4, 0) : place + 2]
        if len({self.kind(character) for character in around}) > 1 or len(around) < 6:
            return False
        return not _CONTRACTION.match(text, place) and self._is_free(text, place)

    def _is_free(self, text: str, place: int) -> bool:
        """Return whether no added token is spelled over a place, or beside it where that matters."""
        for content, alone in self._spelled:
            more = 0 if alone else 1
            begin, end = max(place - len(content) + more, 0), place + len(content) - more
            if text.find(content, begin, end) >= 0:
                return False
        return True

    def _cut_inside(self, text: str, begin: int, end: int, ids: NDArray[np.integer]) -> tuple[int, int] | None:
        """Find the last token boundary of a part at which it may be cut: tokens before it, and its place."""
        symbols = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        tail = text[max(end - 4 * _AHEAD, begin) : end].encode()
        behind = b""
        for kept in range(len(ids) - 1, max(len(ids) - _BACK, 0), -1):
            word = self._words.get(int(ids[kept]), "?")
            if not set(word) <= symbols.keys():
                return None
            behind = bytes(symbols[symbol] for symbol in word) + behind
            if not tail.endswith(behind):
                return None
            if behind[0] & 0xC0 == 0x80:
                continue
            place = end - len(behind.decode())
            if place > begin and self._is_inside(text, place):
                following = self._encode([text[place : place + _AHEAD]])[0]
                if self._stay_apart(int(ids[kept - 1]), int(following[0])):
                    return kept, place
        return None

    def _stay_apart(self, left: int, right: int) -> bool:
        if left not in self._words or right not in self._words:
            return False
        found = self._bare.encode(self._words[left] + self._words[right], add_special_tokens=False)
        return bool(found.ids == [left, right])
