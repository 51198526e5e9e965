"""How often each row of a mixture appears: by duplicates, languages, caps and weights, and a hash of each row.

Memory: about 120 bytes for each row of the sources. The plan does not depend on the order of rows and files.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from megatron_octo.commits.sources.mix_recipe import MixRecipe, cap_of
from megatron_octo.common.errors import OctoError

NO_LANGUAGE = ""


@dataclass
class Scan:
    """What is known of the rows of a piece.

    Attributes:
        source: number of the source.
        key: hash of each row, by which rows are drawn, uint64 [rows].
        digest: of the texts that make a row a duplicate, uint64 [rows, 2]; of no rows where none are looked for.
        lang: number in ``languages`` of each row, int32 [rows].
        languages: names; the first is that of rows without one.
        left: whether a row may appear at all, bool [rows].
        reasons: counts of the others.
    """

    source: int
    key: NDArray[np.uint64]
    digest: NDArray[np.uint64]
    lang: NDArray[np.int32]
    languages: list[str]
    left: NDArray[np.bool_]
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Plan:
    """How often each row appears, int32 [rows] for each piece, and counts by source."""

    copies: list[NDArray[np.int32]]
    counts: dict[str, dict[str, int]]


def make_plan(recipe: MixRecipe, scans: list[Scan]) -> Plan:
    """Decide about all rows.

    Duplicates go first: of equal ones that of the first source stays. Then the caps of the languages and of the
    source, then those of languages over all sources; each keeps the rows of the smallest hash. The weights come last.

    Raises:
        OctoError: the sources cannot give as many rows as the total.
    """
    sizes = [len(each.key) for each in scans]
    source = np.repeat(np.array([each.source for each in scans], np.int32), sizes)
    key = np.concatenate([each.key for each in scans]) if scans else np.zeros(0, np.uint64)
    left = np.concatenate([each.left for each in scans]) if scans else np.zeros(0, bool)
    names, lang = _languages(scans)
    counts = _first_counts(recipe, scans)
    if recipe.dedup != "none":
        _count(recipe, counts, "duplicates", source, left, _drop_equal(scans, source, key, left))
    for number, each in enumerate(recipe.sources.values()):
        own = left & (source == number)
        before = left.copy()
        _cap_languages(own, key, lang, [cap_of(each.language_cap, name) for name in names], left)
        _keep_smallest(left & (source == number), key, each.cap, left)
        _count(recipe, counts, "capped", source, before, before & ~left)
    before = left.copy()
    _cap_languages(left.copy(), key, lang, [cap_of(recipe.language_cap, name) for name in names], left)
    _count(recipe, counts, "capped", source, before, before & ~left)
    copies = np.zeros(len(key), np.int32)
    there = np.bincount(source[left], minlength=len(recipe.sources)).tolist()
    for number, (name, wanted) in enumerate(zip(recipe.sources, quotas(recipe, there), strict=True)):
        rows = np.flatnonzero(left & (source == number))
        if wanted:
            rows = rows[np.argsort(key[rows], kind="stable")]
            whole, more = divmod(wanted, len(rows))
            copies[rows] = whole
            copies[rows[:more]] += 1
        counts[name] |= {"distinct": there[number], "written": wanted}
    return Plan(np.split(copies, np.cumsum(sizes)[:-1]) if scans else [], counts)


def quotas(recipe: MixRecipe, there: list[int]) -> list[int]:
    """Return how many rows each source gives, repeated ones included.

    Without a total, that is its number of rows times its weight. With one, shares are those of the weights; what a
    source cannot give is shared out among the others, unless rows may repeat.

    Args:
        recipe: with weights.
        there: distinct rows of each source.

    Raises:
        OctoError: too few rows for the total.
    """
    weights = [each.weight for each in recipe.sources.values()]
    if recipe.total is None:
        return [int(weight * count + 0.5) for weight, count in zip(weights, there, strict=True)]
    limits = [recipe.total if count and recipe.repeat else count for count in there]
    if sum(limits) < recipe.total:
        what = f"the sources have {sum(there):,} rows that may appear, of which {recipe.total:,} are wanted"
        raise OctoError(what, where="total", hint="lower the total, raise the caps, or allow rows to repeat")
    found, open_, rest = [0] * len(there), set(range(len(there))), recipe.total
    while full := {i for i in open_ if rest * weights[i] >= limits[i] * sum(weights[j] for j in open_)}:
        for i in full:
            found[i] = limits[i]
        rest -= sum(limits[i] for i in full)
        open_ -= full
    shares = {i: rest * weights[i] / sum(weights[j] for j in open_) for i in open_}
    for i in open_:
        found[i] = int(shares[i])
    missing = recipe.total - sum(found)
    for i in sorted(open_, key=lambda i: (int(shares[i]) - shares[i], i))[:missing]:
        found[i] += 1
    return found


def _first_counts(recipe: MixRecipe, scans: list[Scan]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {name: {"read": 0} for name in recipe.sources}
    names = list(recipe.sources)
    for each in scans:
        own = counts[names[each.source]]
        own["read"] += len(each.key)
        for reason, count in each.reasons.items():
            own[reason] = own.get(reason, 0) + count
    return counts


def _count(
    recipe: MixRecipe,
    counts: dict[str, dict[str, int]],
    what: str,
    source: NDArray[np.int32],
    among: NDArray[np.bool_],
    gone: NDArray[np.bool_],
) -> None:
    """Add the rows that are gone to the counts; those of ``among`` stay behind."""
    numbers = np.bincount(source[gone], minlength=len(recipe.sources)).tolist()
    for name, number in zip(recipe.sources, numbers, strict=True):
        if number:
            counts[name][what] = counts[name].get(what, 0) + number
    among &= ~gone


def _languages(scans: list[Scan]) -> tuple[list[str], NDArray[np.int32]]:
    """Number the languages over all pieces."""
    names = sorted({name for each in scans for name in each.languages} - {NO_LANGUAGE})
    number = {name: place for place, name in enumerate([NO_LANGUAGE, *names])}
    parts = [np.array([number[name] for name in each.languages], np.int32)[each.lang] for each in scans]
    return [NO_LANGUAGE, *names], np.concatenate(parts) if parts else np.zeros(0, np.int32)


def _drop_equal(
    scans: list[Scan], source: NDArray[np.int32], key: NDArray[np.uint64], left: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    digest = np.concatenate([each.digest for each in scans])
    rows = np.flatnonzero(left)
    order = rows[np.lexsort((key[rows], source[rows], digest[rows, 1], digest[rows, 0]))]
    gone = np.zeros(len(key), bool)
    gone[order[1:]] = (digest[order[1:]] == digest[order[:-1]]).all(axis=1)
    return gone


def _cap_languages(
    among: NDArray[np.bool_],
    key: NDArray[np.uint64],
    lang: NDArray[np.int32],
    caps: list[int | None],
    left: NDArray[np.bool_],
) -> None:
    if all(cap is None for cap in caps):
        return
    bound = np.array([len(key) if cap is None else cap for cap in caps], np.int64)
    bound[0] = len(key)  # rows without a language have no cap
    rows = np.flatnonzero(among)
    rows = rows[np.lexsort((key[rows], lang[rows]))]
    first = np.searchsorted(lang[rows], lang[rows], "left")
    left[rows[np.arange(len(rows)) - first >= bound[lang[rows]]]] = False


def _keep_smallest(among: NDArray[np.bool_], key: NDArray[np.uint64], cap: int | None, left: NDArray[np.bool_]) -> None:
    if cap is None:
        return
    rows = np.flatnonzero(among)
    left[rows[np.argsort(key[rows], kind="stable")[cap:]]] = False
