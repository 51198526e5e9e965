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
    if "".join(tokens) != re.sub(r"\s", "", expression) or not tokens:
        return False
    try:
        good, rest = _either(tokens, accepted)
    except (IndexError, ValueError):
        return False
    return good and not rest


def _either(tokens: list[str], accepted: frozenset[str]) -> tuple[bool, list[str]]:
    good, rest = _both(tokens, accepted)
    while rest and rest[0].upper() == "OR":
        other, rest = _both(rest[1:], accepted)
        good = good or other
    return good, rest


def _both(tokens: list[str], accepted: frozenset[str]) -> tuple[bool, list[str]]:
    good, rest = _one(tokens, accepted)
    while rest and rest[0].upper() == "AND":
        other, rest = _one(rest[1:], accepted)
        good = good and other
    return good, rest


def _one(tokens: list[str], accepted: frozenset[str]) -> tuple[bool, list[str]]:
    if tokens[0] == "(":
        good, rest = _either(tokens[1:], accepted)
        if rest[0] != ")":
            raise ValueError("a bracket is not closed")
        return good, rest[1:]
    good, rest = plain_id(tokens[0]) in accepted, tokens[1:]
    if rest and rest[0].upper() == "WITH":
        rest = rest[2:]
    return good, rest


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
