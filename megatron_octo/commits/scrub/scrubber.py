"""Replacement of what the patterns find: one value has one replacement in all texts of a row."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from megatron_octo.commits.rows import Row
from megatron_octo.commits.scrub.patterns import Pattern, patterns
from megatron_octo.common.errors import OctoError

TEXTS = ("old_contents", "new_contents", "subject", "message")
PERSONS = ("author", "committer")


class Prefilter:
    """Says which patterns may occur in a text, by one pass of hyperscan over all of them.

    Hyperscan's prefilter mode finds at least what the expressions find. ``re`` decides about the rest.
    """

    def __init__(self, chosen: Sequence[Pattern]) -> None:
        """Compile the expressions.

        Raises:
            OctoError: the library is missing.
        """
        try:
            import hyperscan
        except ImportError:
            hint = "pip install 'megatron-octo[commits]', or --no-prefilter, which takes many times as long"
            raise OctoError("the prefilter needs the hyperscan library", hint=hint) from None
        flags = hyperscan.HS_FLAG_PREFILTER | hyperscan.HS_FLAG_SINGLEMATCH
        self._database = hyperscan.Database()
        self._database.compile(
            expressions=[_simple(each.text).encode() for each in chosen],
            ids=list(range(len(chosen))),
            flags=[flags] * len(chosen),
        )

    def candidates(self, text: str) -> list[int]:
        """Return the places of the patterns that may occur, in order."""
        found: set[int] = set()

        def note(place: int, start: int, end: int, flags: int, context: object) -> None:
            found.add(place)

        self._database.scan(text.encode("utf-8", "surrogatepass"), match_event_handler=note)
        return sorted(found)


def _simple(text: str) -> str:
    """Return an expression that finds at least as much; bounds of thousands would take seconds to compile."""
    return re.sub(r"\{\d+,\d{4,}\}\??", "+", text.replace("(?P<value>", "(?:"))


@functools.cache
def _prefilter(chosen: tuple[Pattern, ...]) -> Prefilter:
    return Prefilter(chosen)


class Scrubber:
    """Scrubber of rows.

    Args:
        names: of the patterns; None for all.
        prefilter: whether hyperscan looks first; the result is the same.
        keep_persons: whether author and committer stay; else they become null.

    Raises:
        OctoError: a name is unknown, or hyperscan is missing.
    """

    def __init__(
        self, names: Sequence[str] | None = None, *, prefilter: bool = True, keep_persons: bool = False
    ) -> None:
        known = {each.name: each for each in patterns()}
        for name in names or ():
            if name not in known:
                raise OctoError(f"no pattern {name!r}", where="command line", hint=f"known: {', '.join(known)}")
        self._patterns = tuple(each for each in patterns() if names is None or each.name in names)
        self._prefilter = _prefilter(self._patterns) if prefilter else None
        self._keep_persons = keep_persons

    def found(self, text: str) -> Iterator[tuple[Pattern, str]]:
        """Yield what the patterns find in a text, pattern by pattern."""
        places = self._prefilter.candidates(text) if self._prefilter else range(len(self._patterns))
        for place in places:
            for value in self._patterns[place].values(text):
                yield self._patterns[place], value

    def scrub(self, row: Row) -> Row:
        """Replace the values in the texts of a row, and count them in the signals.

        Distinct values have distinct replacements, which none of the texts holds already, so texts that differ
        still differ: the edit stays an edit. The signal ``scrubbed`` lists the kinds found, ``scrubbed_values`` counts
        the distinct values.
        """
        texts = {name: text for name in TEXTS if (text := getattr(row, name))}
        kinds: dict[str, Pattern] = {}
        for text in texts.values():
            for pattern, value in self.found(text):
                kinds.setdefault(value, pattern)
        row.signals["scrubbed"] = sorted({each.name for each in kinds.values()})
        row.signals["scrubbed_values"] = len(kinds)
        if kinds:
            replacements = _replacements(kinds, texts.values())
            for name, text in texts.items():
                if present := [value for value in kinds if value in text]:
                    setattr(row, name, _any_of(present).sub(lambda match: replacements[match[0]], text))
        if not self._keep_persons:
            row.author = row.committer = None
        return row


def _any_of(values: Iterable[str]) -> re.Pattern[str]:
    """Return an expression of the values as they are, longest first, not inside of longer words.

    Each alternative begins with a plain character, by which ``re`` skips; what may stand before follows it.
    """
    parts = []
    for value in sorted(values, key=lambda each: (-len(each), each)):
        first, rest = re.escape(value[0]), re.escape(value[1:])
        before = f"(?<![A-Za-z0-9_]{first})" if re.match(r"[A-Za-z0-9_]", value) else ""
        after = r"(?![A-Za-z0-9_])" if re.search(r"[A-Za-z0-9_]\Z", value) else ""
        parts.append(first + before + rest + after)
    return re.compile("|".join(parts))


def _replacements(kinds: dict[str, Pattern], texts: Iterable[str]) -> dict[str, str]:
    """Return the replacement of each value, numbered per tag in the order in which values were found."""
    whole = "\0".join(texts)
    used: Counter[str] = Counter()
    replacements = {}
    for value, pattern in kinds.items():
        while True:
            used[pattern.tag] += 1
            text = placeholder(pattern, used[pattern.tag])
            if text not in whole:
                break
        replacements[value] = text
    return replacements


def placeholder(pattern: Pattern, number: int) -> str:
    """Return the replacement of a row's n-th value of a tag.

    Addresses of hosts become those kept for documentation (RFC 5737, RFC 3849), so that code which parses them still
    does. The others become ``<TAG>``, as in StarCoder's data, further ones ``<TAG_2>``.
    """
    if pattern.name == "ipv4" and number <= 3 * 254:
        network = ("192.0.2", "198.51.100", "203.0.113")[(number - 1) // 254]
        return f"{network}.{(number - 1) % 254 + 1}"
    if pattern.name == "ipv6":
        return f"2001:db8::{number:x}"
    return f"<{pattern.tag}>" if number == 1 else f"<{pattern.tag}_{number}>"
