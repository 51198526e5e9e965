"""Sets of problem numbers as short text: ``0-4,7``."""

from collections.abc import Iterable

from megatron_octo.common.errors import OctoError

_MOST = 1 << 20


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ``0-4,7``."""
    words: list[str] = []
    start = last = None
    for number in [*sorted(set(numbers)), None]:
        if start is not None and last is not None and number != last + 1:
            words.append(str(start) if start == last else f"{start}-{last}")
            start = None
        if number is not None and start is None:
            start = number
        last = number
    return ",".join(words)


def parse_ranges(text: str, where: str) -> list[int]:
    """Return the numbers of ``0-4,7``.

    Raises:
        OctoError: it is something else.
    """
    found: set[int] = set()
    for word in filter(None, text.split(",")):
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and (not dash or last.isdecimal())):
            raise OctoError(f"not a list of problems: {text!r}", where=where, hint="0-4,7")
        low, high = int(first), int(last if dash else first)
        if high < low or high > _MOST:
            raise OctoError(f"not a range of problems: {word!r}", where=where, hint="0-4,7")
        found.update(range(low, high + 1))
    return sorted(found)
