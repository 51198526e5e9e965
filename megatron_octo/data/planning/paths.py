"""Data paths: ``NAME: WEIGHT START:END PREFIX, WEIGHT START:END PREFIX``, in a file or as text.

One group a line, or several with ``;`` between, or OctoPack's form, ``"train: ..." "valid: ..."``.
START and END are fractions of the documents of a data set. ``#`` starts a comment.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from megatron_octo.common.errors import OctoError

_GROUP = re.compile(r"^\s*\"?\s*[^\s:\"#]+\s*:\s+\S", re.MULTILINE)
_NAMED = re.compile(r"^\s*(?P<name>[^\s:\"]+)\s*:(?:\s+(?P<rest>.*))?$")
_HINT = "write NAME: WEIGHT START:END PREFIX, WEIGHT START:END PREFIX; for example train: 1.0 0:0.95 data/commits"


@dataclass(frozen=True)
class Source:
    """Range of the documents of one data set, and its share of the positions.

    Fractions are exact, so two ranges that share a bound share no document.
    """

    weight: Fraction
    start: Fraction
    end: Fraction
    prefix: str

    def documents(self, count: int) -> tuple[int, int]:
        """Return the first document and one past the last, of ``count``: round(fraction * count)."""
        return round(self.start * count), round(self.end * count)


@dataclass(frozen=True)
class Group:
    """Named blend of data sets."""

    name: str
    sources: tuple[Source, ...]


def read_groups(spec: str | Path) -> tuple[Group, ...]:
    """Read a file of data paths, or the text itself.

    Raises:
        OctoError: no such file, or text that is not of the form; names file and line.
    """
    text = str(spec)
    if _GROUP.search(text):
        where, lines = "data paths", text.splitlines()
    elif Path(text).is_file():
        where, lines = text, Path(text).read_text(encoding="utf-8").splitlines()
    else:
        raise OctoError("no such file of data paths", where=text, hint=f"give a file, or {_HINT}")
    groups: dict[str, Group] = {}
    for number, line in enumerate(lines, start=1):
        place = f"{where}:{number}"
        for part in _parts(line, place):
            group = _group(part, place)
            if group.name in groups:
                raise OctoError(f"group {group.name!r} given twice", where=place)
            groups[group.name] = group
    if not groups:
        raise OctoError("no data paths", where=where, hint=_HINT)
    return tuple(groups.values())


def read_group(spec: str | Path) -> Group:
    """Read data paths that hold a single group.

    Raises:
        OctoError: as there, or there are several.
    """
    groups = read_groups(spec)
    if len(groups) > 1:
        names = ", ".join(group.name for group in groups)
        raise OctoError(f"{len(groups)} groups ({names}) where one is wanted", where=str(spec))
    return groups[0]


def _parts(line: str, where: str) -> Iterator[str]:
    """Yield the groups of one line, without comments and quotes."""
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    if line.startswith('"'):
        if line.count('"') % 2 or re.sub(r'"[^"]*"', "", line).strip(" \t;"):
            raise OctoError("a closing quote is missing", where=where, hint='write "train: ..." "valid: ..."')
        yield from re.findall(r'"([^"]*)"', line)
    else:
        yield from (part for part in line.split(";") if part.strip())


def _group(text: str, where: str) -> Group:
    match = _NAMED.match(text)
    if match is None:
        raise OctoError(f"no name in {text.strip()!r}", where=where, hint=_HINT)
    entries = [entry.strip() for entry in (match["rest"] or "").split(",") if entry.strip()]
    if not entries:
        raise OctoError(f"group {match['name']!r} is empty", where=where, hint=_HINT)
    return Group(match["name"], tuple(_source(entry, where) for entry in entries))


def _source(entry: str, where: str) -> Source:
    fields = entry.split(maxsplit=2)
    bounds = fields[1].split(":") if len(fields) == 3 else []
    if len(bounds) != 2:
        raise OctoError(f"cannot read {entry!r}", where=where, hint=_HINT)
    try:
        weight, start, end = (Fraction(number) for number in (fields[0], *bounds))
    except (ValueError, ZeroDivisionError):
        raise OctoError(f"not a number in {entry!r}", where=where, hint=_HINT) from None
    if weight <= 0:
        raise OctoError(f"weight {fields[0]} in {entry!r}: it has to be above 0", where=where)
    if not 0 <= start < end <= 1:
        raise OctoError(f"range {fields[1]} in {entry!r}: 0 <= START < END <= 1 is needed", where=where)
    return Source(weight, start, end, fields[2])
