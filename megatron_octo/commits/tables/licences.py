"""Licences: which are accepted, what a file's SPDX header says, and which text a repository's licence file is."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from megatron_octo.commits.rows import UNKNOWN, Row
from megatron_octo.common.strict_yaml import parse_yaml

_HEAD = 4096  # characters of a file in which a header is looked for
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_TOKEN = re.compile(r"\(|\)|[A-Za-z0-9.+-]+")
_ENDINGS = ("-only", "-or-later", "+")
FILES = re.compile(r"(licen[cs]e|copying|unlicense)([.-][a-z0-9.-]+)?", re.IGNORECASE)  # in a repository's root


@functools.cache
def _table() -> Mapping[str, Any]:
    text = resources.files("megatron_octo.commits.tables").joinpath("licences.yaml").read_text(encoding="utf-8")
    table: Mapping[str, Any] = parse_yaml(text, "licences.yaml", fractions=False)
    return table


@functools.cache
def accepted_licences() -> frozenset[str]:
    """Return CommitPack's twelve licences."""
    return frozenset(_table()["accepted"])


@functools.cache
def hub_licences() -> frozenset[str]:
    """Return the ids of licences that the hub knows."""
    return frozenset(_table()["hub"])


def licence_of_text(text: str) -> str:
    """Return the id of a licence's text, ``unknown`` if none of the known ones is found."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    for entry in _table()["texts"]:
        if all(part in words for part in entry["words"]):
            return str(entry["id"])
    return UNKNOWN


def plain_id(name: str) -> str:
    """Return an SPDX id in lower case, without ``-only``, ``-or-later`` and ``+``."""
    found = name.strip().lower()
    for ending in _ENDINGS:
        found = found.removesuffix(ending)
    return found


def spdx_header(text: str | None) -> str | None:
    """Return the expression behind ``SPDX-License-Identifier:`` at the head of a file; None without one."""
    if text is None or (found := _SPDX.search(text, 0, _HEAD)) is None:
        return None
    words = re.split(r"\*/|-->|#}|\"\"\"|\*\)", found[1])[0].strip().rstrip("\"'*;#/. \t")
    return words or None


def is_accepted(expression: str, accepted: frozenset[str]) -> bool:
    """Return whether an SPDX expression allows a licence that is accepted.

    Of ``A OR B`` one must be, of ``A AND B`` both; ``A WITH exception`` counts as A. What cannot be parsed is not.
    """
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != re.sub(r"\s", "", expression):
        return False
    # A level per open bracket: whether an earlier part of an OR holds, and whether the present part does so far.
    levels, before = [(False, True)], "OR"
    for token in tokens:
        kind = _kind(token)
        if kind not in _MAY_FOLLOW[before]:
            return False
        either, both = levels[-1]
        if kind == "(":
            levels.append((False, True))
        elif kind == "OR":
            levels[-1] = (either or both, True)
        elif kind == ")":
            if len(levels) == 1:
                return False
            levels.pop()
            outer, all_of = levels[-1]
            levels[-1] = (outer, all_of and (either or both))
        elif kind == "name" and before != "WITH":
            levels[-1] = (either, both and plain_id(token) in accepted)
        before = "exception" if before == "WITH" else kind
    return len(levels) == 1 and "OR" in _MAY_FOLLOW[before] and any(levels[0])


# What may stand behind each part of an expression; a licence's name begins it as it follows OR.
_OPERATORS = ("OR", "AND", ")")
_MAY_FOLLOW = {
    **dict.fromkeys(("(", "OR", "AND"), ("(", "name")),
    "WITH": ("name",),
    "name": ("WITH", *_OPERATORS),
    **dict.fromkeys((")", "exception"), _OPERATORS),
}


def _kind(token: str) -> str:
    return word if (word := token.upper()) in _MAY_FOLLOW else "name"


@dataclass(frozen=True)
class LicenceRule:
    """What rows keep their place.

    Attributes:
        accepted: ids in lower case.
        repositories: licences by the case-folded name of a repository; they come before those of the rows.
        keep_unknown: whether rows whose licence is not known are kept.
        keep_conflict: whether a row stays if one of several licences of its repositories is accepted; else all must be.
    """

    accepted: frozenset[str]
    repositories: Mapping[str, str]
    keep_unknown: bool = False
    keep_conflict: bool = False

    def apply(self, row: Row) -> Row:
        """Set the licence and the header of a row, and drop it if they are not accepted.

        The header of a file counts where the repository's licence is unknown, and drops where it is another one.
        """
        found = self._of_repositories(row)
        header = spdx_header(row.new_contents) or spdx_header(row.old_contents)
        row.signals["spdx"] = header
        if not found and header is not None:
            found = [plain_id(header)] if is_accepted(header, self.accepted) else []
        row.license = ",".join(found) or UNKNOWN
        if header is not None and not is_accepted(header, self.accepted):
            return row.mark("licence_header", header)
        if not found:
            return row if self.keep_unknown else row.mark("licence_unknown")
        good = [name for name in found if name in self.accepted or is_accepted(name, self.accepted)]
        if not good or (len(good) < len(found) and not self.keep_conflict):
            return row.mark("licence", row.license)
        return row

    def _of_repositories(self, row: Row) -> list[str]:
        """Return the distinct licences of the row's repositories that are known, sorted."""
        texts = [self.repositories[name] for each in row.repo_names if (name := each.lower()) in self.repositories]
        found = {plain_id(part) for text in texts or [row.license or ""] for part in text.split(",")}
        return sorted(found - {UNKNOWN, "", "other", "noassertion", "none"})


def repository_licences(rows: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a table of licences by repository, in lower case; several different ones are joined by commas."""
    found: dict[str, set[str]] = {}
    for names, licence in rows:
        for name in names.split(","):
            if name.strip():
                found.setdefault(name.strip().lower(), set()).add(plain_id(licence))
    return {name: ",".join(sorted(licences)) for name, licences in sorted(found.items())}
