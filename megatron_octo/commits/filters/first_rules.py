"""Rules of CommitPackFT's first script, on contents, file names and the subject's form.

Where the original is wrong there are two functions: ``..._original`` decides as it does, the other as it was meant.
Source: octopack's ``commitpackft_filters1.py``.
"""

import re

from megatron_octo.commits.filters.subject import Look, word_lists
from megatron_octo.commits.tables.languages import language_of

MAX_CHARACTERS = 50_000


def content_size(look: Look) -> str | None:
    """Keep rows whose contents before have fewer than 50,000 characters."""
    size = len(look.old)
    return f"{size} characters" if size >= MAX_CHARACTERS else None


def empty(look: Look) -> str | None:
    """Keep rows with contents after."""
    return None if look.new else "nothing after"


def no_change(look: Look) -> str | None:
    """Keep rows whose contents differ."""
    return "equal contents" if look.old == look.new else None


def hash_sign(look: Look) -> str | None:
    """Keep subjects without ``#``, which mostly names an issue."""
    return "#" if "#" in look.subject else None


def ending_original(look: Look) -> str | None:
    """Keep files whose last part after a dot is in the list of the language.

    The lists have dots and the part has none, so only shell's list, which has none either, lets rows pass.
    """
    parts = look.row.new_file.split(".")
    endings = word_lists()["endings"].get(look.language, ())
    good = len(parts) > 1 and (not endings or parts[-1] in endings)
    return None if good else look.row.new_file


def ending(look: Look) -> str | None:
    """Keep files with an ending of the list of the language; without one, files of a known name."""
    name = look.row.new_file.rpartition("/")[2]
    endings = word_lists()["endings"].get(look.language, ())
    if endings:
        good = "." in name and name.rpartition(".")[2] in {each.lstrip(".") for each in endings}
    else:
        good = "." in name or language_of(name) != "unknown"  # Dockerfile
    return None if good else look.row.new_file


def file_name_original(look: Look) -> str | None:
    """Keep subjects that do not hold the last part of the file's stem: ``test`` of ``a.test.js``, ``a`` of ``a.c``."""
    parts = look.row.new_file.split("/")[-1].split(".")
    return parts[-2] if len(parts) >= 2 and parts[-2] in look.subject else None


def file_name(look: Look) -> str | None:
    """Keep subjects in which no word begins with the file's stem; stems under three characters do not count."""
    stem = look.row.new_file.rpartition("/")[2]
    stem = stem.rpartition(".")[0] or stem
    if len(stem) < 3 or stem not in look.subject:
        return None
    return stem if re.search(rf"(?<![^\W_]){re.escape(stem)}", look.subject) else None


def subject_size(look: Look) -> str | None:
    """Keep subjects of 11 to 999 characters and 5 to 999 words."""
    if 10 < len(look.subject) < 1000 and 4 < len(look.words) < 1000:
        return None
    return f"{len(look.subject)} characters, {len(look.words)} words"


def clean_marks(look: Look) -> None:
    """Take ``[skip ci]``, a first ``[word]``, a first ``word:`` and a last ``[word]`` from the subject.

    Runs of white space become one space.
    """
    if not look.subject:
        return
    words = look.subject.strip().replace("[skip ci]", "").split()
    if words and words[0].startswith("[") and words[0].endswith("]"):
        del words[0]
    if words and words[0].endswith(":"):
        del words[0]
    if words and words[-1].startswith("[") and words[-1].endswith("]"):
        del words[-1]
    look.replace(" ".join(words))


def capital(look: Look) -> str | None:
    """Keep subjects whose first character is a capital letter."""
    first = look.subject.strip()[:1]
    return None if first.isupper() else first


def _starts(misspelled: bool) -> tuple[str, ...]:
    lists = word_lists()
    wrong = {each.strip() for each in lists["misspelled_verbs"]}
    verbs = [each for each in lists["verbs"] if not (misspelled and each in wrong)]
    return tuple(f"{each} " for each in [*verbs, *(lists["misspelled_verbs"] if misspelled else ())])


_STARTS = {misspelled: _starts(misspelled) for misspelled in (True, False)}


def verb_of(lower: str) -> str | None:
    """Return the verb of the list with which a subject in lower case begins; None without one."""
    if not lower.startswith(_STARTS[False]):
        return None
    return next(start.strip() for start in _STARTS[False] if lower.startswith(start))


def verb_original(look: Look) -> str | None:
    """Keep subjects that begin with a verb of the list; ``plug`` needs two spaces behind it."""
    return None if look.lower.startswith(_STARTS[True]) else " ".join(look.words[:2])


def verb(look: Look) -> str | None:
    """Keep subjects that begin with a verb of the list and a space."""
    return None if look.lower.startswith(_STARTS[False]) else " ".join(look.words[:2])


def bad_subject(look: Look) -> str | None:
    """Keep subjects that are not one of a list of empty phrases."""
    return look.lower if look.lower in word_lists()["bad_subjects"] else None


def bad_part(look: Look) -> str | None:
    """Keep subjects without phrases of merges, sign-offs and robots."""
    return next((part for part in word_lists()["bad_parts"] if part in look.lower), None)


_VERSION = re.compile(r"(?:v)?\d+\.\d+\.\d+(?=$|\S)")
_HASH = re.compile(r"^[a-f0-9]+(?:-[a-f0-9]+)*$")


def version(look: Look) -> str | None:
    """Keep subjects that do not begin with a version."""
    found = _VERSION.match(look.lower)
    return found[0] if found else None


def hexadecimal(look: Look) -> str | None:
    """Keep subjects that are not a hash, parts joined by hyphens."""
    return look.lower[:40] if _HASH.match(look.lower) else None
