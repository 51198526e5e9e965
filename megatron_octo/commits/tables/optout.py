"""Owners that opted out: their repositories are taken out of a row, and a row without any left is dropped."""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from megatron_octo.commits.rows import Row, each_kept
from megatron_octo.commits.rows.row import join_names
from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import parse_yaml, read_text

RULE = "optout"
_LOGIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\[bot\])?")


@dataclass(frozen=True)
class OwnerList:
    """A list of logins, in lower case.

    Attributes:
        name: file.
        date: when it was made, ISO 8601; empty for a file without one.
        source: where it comes from.
    """

    name: str
    date: str
    source: str
    logins: frozenset[str]


@functools.cache
def default_owners() -> OwnerList:
    """Return the list that comes with the project."""
    text = resources.files("megatron_octo.commits.tables").joinpath("owners.yaml").read_text(encoding="utf-8")
    return _of_yaml(text, "owners.yaml")


def _of_yaml(text: str, where: str | Path) -> OwnerList:
    content = parse_yaml(text, where)
    logins = content.get("logins") if isinstance(content, dict) else None
    if not isinstance(logins, list):
        raise OctoError("no list of logins", where=where, hint="logins: [name, name]; date and source beside it")
    checked = frozenset(_login(each, f"{where}, login {number}") for number, each in enumerate(logins, 1))
    return OwnerList(str(where), str(content.get("date", "")), str(content.get("source", "")), checked)


def _login(value: object, where: str) -> str:
    if not isinstance(value, str) or not _LOGIN.fullmatch(value.strip()):
        raise OctoError(f"not a login: {value!r}", where=where, hint="letters, digits and hyphens, without owner/name")
    return value.strip().lower()


def read_owners(path: str | Path) -> OwnerList:
    """Read a list of one's own: YAML as the project's, or a login a line with ``#`` before comments.

    Raises:
        OctoError: it is missing, or an entry is no login; file and line are named.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix in (".yaml", ".yml"):
        return _of_yaml(text, path)
    found = set()
    for number, line in enumerate(text.splitlines(), 1):
        if word := line.partition("#")[0].strip():
            found.add(_login(word, f"{path}:{number}"))
    return OwnerList(str(path), "", "", frozenset(found))


def owner_of(repository: str) -> str | None:
    """Return the owner of ``owner/name``, in lower case; None for a name without one."""
    owner, slash, _ = repository.strip().partition("/")
    return owner.lower() if slash and owner else None


def opt_out(row: Row, logins: frozenset[str]) -> Row:
    """Take the repositories of these owners out of a row; drop it if none is left."""
    names = row.repo_names
    left = [name for name in names if owner_of(name) not in logins]
    if len(left) == len(names):
        return row
    gone = sorted({owner for name in names if (owner := owner_of(name)) in logins and owner})
    if not left:
        return row.mark(RULE, f"every owner opted out: {', '.join(gone)}")
    row.repos = join_names(left)
    return row


def opt_out_rows(rows: Iterable[Row], logins: Iterable[str]) -> Iterator[Row]:
    """Apply :func:`opt_out` to all rows that are not dropped."""
    found = frozenset(logins)
    return each_kept(lambda row: opt_out(row, found), rows)
