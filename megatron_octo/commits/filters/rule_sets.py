"""The order of the rules in both modes."""

from typing import Literal

from megatron_octo.commits.filters import first_rules as first
from megatron_octo.commits.filters import second_rules as second
from megatron_octo.commits.filters.subject import Look, Rule

Mode = Literal["octopack", "fixed"]
MODES: tuple[Mode, ...] = ("octopack", "fixed")
TOKENS = "tokens"  # the rule's place in the order; tokens.py applies it
CLEANS = {"clean_marks": first.clean_marks, "clean_ci_skip": second.clean_ci_skip}

# Functions by the names of the rules; (original, fixed) where they differ. A rule with two names is asked twice.
_FIRST = {
    "content_size": first.content_size,
    "empty": first.empty,
    "no_change": first.no_change,
    "hash_sign": first.hash_sign,
    "ending": (first.ending_original, first.ending),
    "file_name": (first.file_name_original, first.file_name),
    "subject_size": first.subject_size,
    "clean_marks": None,
    "cleaned_subject_size": first.subject_size,
    "capital": first.capital,
    TOKENS: None,
    "verb": (first.verb_original, first.verb),
    "bad_subject": first.bad_subject,
    "bad_part": first.bad_part,
    "version": first.version,
    "hexadecimal": first.hexadecimal,
}
_SECOND = {
    "cherry_pick": second.cherry_pick,
    "commit_id": second.commit_id,
    "clean_ci_skip": None,
    "version_bump": second.version_bump,
    "first_person": (second.first_person_original, second.first_person),
    "thanks": (second.thanks_original, second.thanks),
    "code_review": second.code_review,
    "junk_subject": second.junk_subject,
    "numbered": second.numbered,
    "cdpcp": second.cdpcp,
    "review_link": second.review_link,
    "work_in_progress": (second.work_in_progress_original, second.work_in_progress),
    "link": second.link,
    "leetcode": second.leetcode,
    "words": second.words,
}
# They cannot drop a row that the rules before them keep: the original's own dead code, kept for its counts.
NEVER_ALONE = ("bad_subject", "version", "hexadecimal")


def rules(mode: Mode) -> list[Rule]:
    """Return the steps of a mode in order, cleaning steps among them.

    The original asks for the tokens between the capital and the verb; ``fixed`` asks last, since it costs most. The
    rows that are kept do not depend on that.
    """
    names = {**_FIRST, **_SECOND}
    order = list(names)
    if mode == "fixed":
        order = [*(name for name in order if name != TOKENS), TOKENS]
    return [_rule(name, names[name], mode) for name in order]


def _rule(name: str, functions: object, mode: Mode) -> Rule:
    if name == TOKENS:
        return Rule(name, "Keep rows within the model's number of tokens.", _pass)
    if name in CLEANS:
        return Rule(name, _purpose(CLEANS[name]), _cleaning(name))
    function = functions[MODES.index(mode)] if isinstance(functions, tuple) else functions
    assert callable(function)
    return Rule(name, _purpose(function), function)


def _purpose(function: object) -> str:
    return str(function.__doc__).strip().splitlines()[0]


def _pass(look: Look) -> None:
    return None


class _cleaning:  # noqa: N801 - a function that travels to processes
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, look: Look) -> None:
        CLEANS[self._name](look)
