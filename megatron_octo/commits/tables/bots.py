"""Commits that programs wrote, by author and committer, else by the subject."""

import functools
import re
from importlib import resources

from megatron_octo.commits.rows.row import Row
from megatron_octo.common.strict_yaml import parse_yaml

RULE = "bot"


@functools.cache
def _table() -> tuple[frozenset[str], re.Pattern[str]]:
    text = resources.files("megatron_octo.commits.tables").joinpath("bots.yaml").read_text(encoding="utf-8")
    table = parse_yaml(text, "bots.yaml", fractions=False)
    return frozenset(table["names"]), re.compile("|".join(table["subjects"]))


def is_bot(person: str) -> bool:
    """Return whether ``Name <address>`` is a program: by ``[bot]``, or by a known name or mail box."""
    name, address = person.lower().strip(), ""
    before, bracket, within = name[:-1].rpartition("<")
    if bracket and name.endswith(">") and ">" not in within:
        name, address = before.rstrip(), within
    if "[bot]" in name or "[bot]" in address:
        return True
    names, _ = _table()
    box = address.partition("@")[0]
    login = box.partition("+")[2] or box  # 123+login@users.noreply.github.com
    return name in names or login in names


def bot_reason(row: Row) -> str | None:
    """Return why a row is a program's commit; None if it is not, as far as the row shows."""
    known = [(what, person) for what, person in (("author", row.author), ("committer", row.committer)) if person]
    for what, person in known:
        if is_bot(person):
            return f"{what} {person}"
    if not known and _table()[1].search(row.subject.lower()):
        return "subject of a program; no author is known"
    return None
