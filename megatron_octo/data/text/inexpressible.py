"""Characters that a byte-level vocabulary cannot express, and that every library drops silently.

A byte-level tokenizer writes a text as its UTF-8 bytes and joins them; a byte that is not a token is lost.
StarCoder's vocabulary lacks 0xF1 (planes 4 to 7 of Unicode, in which nothing is assigned), next to the 13 bytes that
UTF-8 never has.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_SURROGATES = (0xD800, 0xE000)
_USED = {*range(0xC0), *range(0xC2, 0xF5)}  # bytes that occur in UTF-8


def byte_symbols() -> list[str]:
    """Return the character by which byte-level vocabularies write each byte (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    symbols = {byte: chr(byte) for byte in printable}
    symbols.update({byte: chr(256 + place) for place, byte in enumerate(others)})
    return [symbols[byte] for byte in range(256)]


def missing_bytes(description: Mapping[str, Any]) -> set[int]:
    """Find the bytes for which a byte-level BPE ``tokenizer.json`` has no token; empty for any other kind.

    Bytes that never occur in UTF-8 are left out.
    """
    model, split = description.get("model") or {}, description.get("pre_tokenizer") or {}
    steps = split.get("pretokenizers", [split])
    if model.get("type") != "BPE" or not any(step.get("type") == "ByteLevel" for step in steps):
        return set()
    symbols = byte_symbols()
    return {byte for byte in _USED if symbols[byte] not in model["vocab"]}


def inexpressible(missing: set[int]) -> re.Pattern[str] | None:
    """Build a pattern that finds characters with one of these bytes in UTF-8; None if there are none."""
    if not missing:
        return None
    table = np.zeros(256, bool)
    table[list(missing)] = True
    codes = np.arange(0x110000, dtype=np.uint32)
    parts = [table[:0x80]]
    # Characters of two, three and four bytes: six bits in each byte after the first.
    for more, start, stop, lead in (
        (1, 0x80, 0x800, 0xC0),
        (2, 0x800, 0x10000, 0xE0),
        (3, 0x10000, 0x110000, 0xF0),
    ):
        block = codes[start:stop]
        lost = table[lead | block >> (6 * more)]
        for place in range(more):
            lost |= table[0x80 | block >> (6 * place) & 0x3F]
        parts.append(lost)
    lost = np.concatenate(parts)
    lost[slice(*_SURROGATES)] = False  # no text has them
    edges = np.flatnonzero(np.diff(lost, prepend=False, append=False))
    ranges = (f"\\U{begin:08x}-\\U{end - 1:08x}" for begin, end in edges.reshape(-1, 2).tolist())
    return re.compile(f"[{''.join(ranges)}]")


class LossFinder:
    """Detector of texts with characters that a vocabulary cannot express.

    Attributes:
        lossy: whether there are such characters at all.
    """

    def __init__(self, description: Mapping[str, Any]):
        missing = missing_bytes(description)
        self._pattern = inexpressible(missing)
        self.lossy = self._pattern is not None
        self._ascii = bool(missing & set(range(0x80)))
        # Only characters of four bytes: few texts have any, and counting them is faster than a search.
        self._rare = missing.isdisjoint(range(0xF0))

    def __call__(self, text: str) -> bool:
        """Return whether a text has such characters."""
        if self._pattern is None or (text.isascii() and not self._ascii):
            return False
        if self._rare and len(text.encode("utf-16-le", "surrogatepass")) == 2 * len(text):
            return False
        return self._pattern.search(text) is not None
