"""Rules of CommitPackFT's second script: subjects that reading the data brought up.

Source: octopack's ``commitpackft_filters2.py``. The names are those of :mod:`first_rules`' convention.
"""

import re

import xxhash

from megatron_octo.commits.filters.subject import Look, word_lists

_COMMIT = re.compile(r"[a-f0-9]{40}")
_NUMBERED = re.compile(r"(?:issue|bug|feature)\s*\d+", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"(?<!\S)i(?!\S)|\bi'(?:ve|m)\b")
_WORK_IN_PROGRESS = re.compile(r"work in progress|\bwip\b")
_KEPT_VERSIONS = 0.1


def cherry_pick(look: Look) -> str | None:
    """Keep subjects without ``cherry picked from commit``."""
    return "cherry picked" if "cherry picked from commit" in look.subject else None


def commit_id(look: Look) -> str | None:
    """Keep subjects without a commit's id of forty characters."""
    found = _COMMIT.search(look.subject)
    return found[0] if found else None


def clean_ci_skip(look: Look) -> None:
    """Take ``[ci skip]`` from the subject."""
    look.replace(look.subject.replace("[ci skip]", "").strip())


def share_of(commit: str, seed: int = 0) -> float:
    """Return a number in [0, 1) that only the commit and the seed decide, by xxh3 of its id."""
    return xxhash.xxh3_64_intdigest(commit.encode("utf-8", "surrogatepass"), seed) / 2**64


def version_bump(look: Look, seed: int = 0) -> str | None:
    """Keep one in ten of the subjects that begin like a new version.

    The original draws without a seed; here the commit's hash decides, in both modes, so that all runs keep the same.
    """
    for start in word_lists()["version_starts"]:
        if look.subject.startswith(start) and share_of(look.row.commit, seed) >= _KEPT_VERSIONS:
            return str(start)
    return None


def first_person_original(look: Look) -> str | None:
    """Keep subjects without `` i ``, ``i've`` and ``i'm``, wherever in a word."""
    return next((part for part in (" i ", "i've", "i'm") if part in look.lower), None)


def first_person(look: Look) -> str | None:
    """Keep subjects without the words ``I``, ``I've`` and ``I'm``."""
    found = _FIRST_PERSON.search(look.lower)
    return found[0] if found else None


def thanks_original(look: Look) -> str | None:
    """Keep subjects without ``thanks to`` in any case, if ``for`` is somewhere, in lower case."""
    return "thanks to" if "thanks to" in look.lower and "for" in look.subject else None


def thanks(look: Look) -> str | None:
    """Keep subjects without ``thanks to`` and the word ``for``."""
    return "thanks to" if "thanks to" in look.lower and re.search(r"\bfor\b", look.lower) else None


def code_review(look: Look) -> str | None:
    """Keep subjects without ``code review``."""
    return "code review" if "code review" in look.lower else None


def junk_subject(look: Look) -> str | None:
    """Keep subjects that are not one of three that were found."""
    return look.lower if look.lower in word_lists()["junk_subjects"] else None


def numbered(look: Look) -> str | None:
    """Keep subjects without the number of an issue, a bug or a feature."""
    found = _NUMBERED.search(look.lower)
    return found[0] if found else None


def cdpcp(look: Look) -> str | None:
    """Keep subjects without ``cdpcp``, a tracker's key."""
    return "cdpcp" if "cdpcp" in look.lower else None


def review_link(look: Look) -> str | None:
    """Keep subjects without ``//codereview``."""
    return "//codereview" if "//codereview" in look.lower else None


def work_in_progress_original(look: Look) -> str | None:
    """Keep subjects without ``work in progress`` and ``wip``, also inside of words, as in ``swipe``."""
    return next((part for part in ("work in progress", "wip") if part in look.lower), None)


def work_in_progress(look: Look) -> str | None:
    """Keep subjects without ``work in progress`` and the word ``wip``."""
    found = _WORK_IN_PROGRESS.search(look.lower)
    return found[0] if found else None


def link(look: Look) -> str | None:
    """Keep subjects without a link."""
    return next((part for part in ("https://", "http://") if part in look.lower), None)


def leetcode(look: Look) -> str | None:
    """Keep subjects without ``| leetcode``."""
    return "| leetcode" if "| leetcode" in look.lower else None


def words(look: Look) -> str | None:
    """Keep subjects of at least four words after the cleaning."""
    return f"{len(look.words)} words" if len(look.words) < 4 else None
