"""Search for the texts of benchmarks in rows: whole except for white space and case, then by shared runs of words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.commits.clean.benchmark_texts import Text
from megatron_octo.commits.clean.edits import folded, rensa_library
from megatron_octo.commits.rows import Row
from megatron_octo.common.errors import OctoError

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Hit:
    """A text of a benchmark in a row.

    Attributes:
        where: the text.
        column: of the row.
        share: of the text's runs of words; 1 for an exact match.
        exact: whether the whole text is there.
    """

    where: str
    column: str
    share: float
    exact: bool


def normal(text: str) -> str:
    """Return a text in lower case without white space, so that indentation and line breaks do not matter."""
    return "".join(text.lower().split())


class Finder:
    """Finder of texts.

    Args:
        texts: of benchmarks.
        characters: least size of a normal text; shorter ones are too common to say anything and are left out.
        run: words of a run.
        share: least share of a text's runs that a row has to hold.

    Attributes:
        left_out: texts that are too short.

    Raises:
        OctoError: a library is missing.
    """

    def __init__(self, texts: Sequence[Text], characters: int = 50, run: int = 10, share: float = 0.5) -> None:
        try:
            import ahocorasick_rs
        except ImportError:
            hint = "pip install 'megatron-octo[commits]'"
            raise OctoError("decontamination needs the ahocorasick-rs library", hint=hint) from None
        self.run, self.share = run, share
        wanted: dict[str, Text] = {}
        self.left_out = []
        for each in texts:
            text = normal(each.text)
            if len(text) < characters:
                self.left_out.append(each.where)
            else:
                wanted.setdefault(text, each)
        self.texts = list(wanted.values())
        self._automaton: Any = ahocorasick_rs.AhoCorasick(list(wanted))
        runs = [self._runs(each.text) for each in self.texts]
        self._counts = np.array([len(each) for each in runs], np.int64)
        numbers = np.repeat(np.arange(len(runs)), self._counts)
        values = np.concatenate([np.empty(0, np.uint64), *runs])
        order = np.argsort(values, kind="stable")
        self._values, self._numbers = values[order], numbers[order]

    def _runs(self, text: str) -> NDArray[np.uint64]:
        """Return the distinct hashes of the runs of words, uint64 [N]; a shorter text has none."""
        words = _WORD.findall(text.lower())
        if len(words) < self.run:
            return np.empty(0, np.uint64)
        hashes = np.asarray(rensa_library().RMinHash.hash_token_sets([words])[0], np.uint64)
        count = len(words) - self.run + 1
        return np.unique(folded(hashes[place : place + count] for place in range(self.run)))

    def exact(self, text: str) -> set[int]:
        """Return the numbers of the texts that a text holds, except for white space and case."""
        return {found[0] for found in self._automaton.find_matches_as_indexes(normal(text), overlapping=True)}

    def shared(self, text: str) -> Iterator[tuple[int, float]]:
        """Yield the numbers of the texts of whose runs a text holds at least the share, with the share."""
        runs = self._runs(text)
        if not len(runs) or not len(self._values):
            return
        left = np.searchsorted(self._values, runs, "left")
        right = np.searchsorted(self._values, runs, "right")
        places = [np.arange(start, end) for start, end in zip(left[left < right], right[left < right])]
        if not places:
            return
        counts = np.bincount(self._numbers[np.concatenate(places)], minlength=len(self.texts))
        for number in np.flatnonzero(counts >= np.maximum(1, self.share * self._counts)):
            if self._counts[number]:
                yield int(number), float(counts[number] / self._counts[number])

    def hits(self, row: Row) -> list[Hit]:
        """Return what a row holds, in its contents before and after and its message; exact matches first."""
        found: dict[tuple[int, str], Hit] = {}
        texts = (("new_contents", row.new_contents), ("old_contents", row.old_contents), ("message", row.message))
        for column, text in texts:
            if not text:
                continue
            for number in self.exact(text):
                found[number, column] = Hit(self.texts[number].where, column, 1.0, True)
            for number, share in self.shared(text):
                found.setdefault((number, column), Hit(self.texts[number].where, column, round(share, 4), False))
        return sorted(found.values(), key=lambda hit: (not hit.exact, -hit.share, hit.where, hit.column))
