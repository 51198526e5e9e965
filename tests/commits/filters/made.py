"""A row that all rules keep, and for each rule one that only this rule drops."""

from typing import Any

from megatron_octo.commits.filters.second_rules import share_of
from megatron_octo.commits.rows import Row

GOOD: dict[str, Any] = {
    "commit": "c" * 40,
    "old_file": "web/start.css",
    "new_file": "web/start.css",
    "old_contents": "a { color: red }\n" * 8,
    "new_contents": "a { color: blue }\n" * 8,
    "subject": "Add a colour to links",
    "message": "Add a colour to links\n",
    "lang": "CSS",
}
_BUMPED = next(f"{number:040x}" for number in range(100) if share_of(f"{number:040x}") >= 0.1)

# Of each rule: columns of a row that it alone drops, in both modes.
ALONE: dict[str, dict[str, Any]] = {
    "content_size": {"old_contents": "x" * 50_000},
    "empty": {"new_contents": None},
    "no_change": {"new_contents": GOOD["old_contents"]},
    "hash_sign": {"subject": "Add the colour of issue #12 to links"},
    "ending": {"new_file": "web/start", "lang": "CSS"},
    "file_name": {"subject": "Add a colour to start of links"},
    "subject_size": {"subject": "Add a colour to" + 1000 * " " + "links"},
    "cleaned_subject_size": {"subject": "[web] Add colour to links"},
    "capital": {"subject": "add a colour to links"},
    "tokens": {"new_contents": "a { color: blue }\n" * 200},
    "verb": {"subject": "Colours are added to links"},
    "bad_part": {"subject": "Merge branch of colours into links"},
    "cherry_pick": {"subject": "Add links (cherry picked from commit of colours)"},
    "commit_id": {"subject": f"Revert the colours of {'0a' * 20}"},
    "version_bump": {"subject": "Bump the colour of all links", "commit": _BUMPED},
    "first_person": {"subject": "Add a colour that I like"},
    "thanks": {"subject": "Add colours, thanks to them for all"},
    "code_review": {"subject": "Change colours after code review of links"},
    "junk_subject": {"subject": "Fix that bug where things didn't work but now they should"},
    "numbered": {"subject": "Fix the colours of issue 12"},
    "cdpcp": {"subject": "Fix the colours of CDPCP links"},
    "review_link": {"subject": "Fix the colours of //codereview links"},
    "work_in_progress": {"subject": "Add colours to links, WIP"},
    "link": {"subject": "Add colours of https://a.example to links"},
    "leetcode": {"subject": "Add a solution of links | LeetCode"},
    "words": {"subject": "Add link colours [ci skip]"},
}
# Columns of rows that the original drops by mistake, and by which rule.
MISTAKES: dict[str, dict[str, Any]] = {
    "ending": {"new_file": "web/start.py", "lang": "Python"},
    "file_name": {"new_file": "web/o.css"},
    "verb": {"subject": "Plug the colours into links"},
    "first_person": {"subject": "Add the Mini'Ve colour to links"},
    "thanks": {"subject": "Add colours before links, thanks to them"},
    "work_in_progress": {"subject": "Add a colour to swiped links"},
}


def row(columns: dict[str, Any]) -> Row:
    """Make a row of :data:`GOOD` with other columns."""
    return Row(**GOOD | columns)
