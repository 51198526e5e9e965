"""Keys of edits: blob ids as git's, normalised texts, shingles and MinHashes against the plain definition."""

import subprocess

import numpy as np
import pytest

from megatron_octo.commits.clean.edits import (
    WORDS,
    band_hashes,
    blob_id,
    blob_pair,
    edit_words,
    jaccard,
    minhashes,
    normal_text,
    shingles,
)
from megatron_octo.commits.rows import Row


def row(old: str | None, new: str | None, subject: str = "Change it", **more: str) -> Row:
    return Row("a" * 40, old_contents=old, new_contents=new, subject=subject, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "a\n", "é\r\n\0"])
def test_blob_ids_are_gits(text: str) -> None:
    found = subprocess.run(["git", "hash-object", "--stdin"], input=text.encode(), capture_output=True, check=True)
    assert blob_id(text) == found.stdout.decode().strip()
    assert blob_pair(row(text, "b")) == blob_pair(row(None, None, old_blob=blob_id(text), new_blob=blob_id("b")))


def test_missing_and_empty_contents_differ() -> None:
    assert blob_pair(row(None, "b")) != blob_pair(row("", "b"))
    assert normal_text(row(None, "b")) != normal_text(row("", "b"))


def test_normal_texts_ignore_case_and_white_space_only() -> None:
    assert normal_text(row("A  b\n", "\tc")) == normal_text(row("a b", "C\n\n"))
    assert normal_text(row("a b", "c")) != normal_text(row("a", "b c"))
    assert normal_text(row("a", "b", "x")) != normal_text(row("a", "b", "y"))


def test_only_changed_lines_count() -> None:
    assert edit_words(row("a\nb c\n", "a\nd\n", "Do it")) == (["Do", "it"], ["b", "c"], ["d"])


def plain_shingles(words: list[str], side: int) -> set[tuple[object, ...]]:
    size = min(WORDS, len(words))
    return {(side, *words[place : place + size]) for place in range(len(words) - size + 1)} if words else set()


def test_shingles_and_similarity_equal_the_definition() -> None:
    random = np.random.default_rng(0)
    texts = [
        tuple([f"w{word}" for word in random.integers(0, 6, count)] for count in random.integers(0, 12, 3))
        for _ in range(60)
    ]
    found = shingles(texts)  # type: ignore[arg-type]
    plain = [set().union(*(plain_shingles(words, side) for side, words in enumerate(sides))) for sides in texts]
    own = [found.values[start:end] for start, end in zip(found.starts, found.starts[1:])]
    assert list(map(len, own)) == list(map(len, plain))
    for one in range(0, 60, 7):
        for other in range(60):
            union = len(plain[one] | plain[other])
            wanted = len(plain[one] & plain[other]) / union if plain[one] and plain[other] else 0.0
            assert jaccard(own[one], own[other]) == pytest.approx(wanted)


def test_an_edit_and_its_revert_are_not_alike() -> None:
    one, other = "x = 1\n" + "a b c d e f g\n", "x = 1\n" + "h i j k l m n o\n"
    found = shingles([edit_words(row(one, other)), edit_words(row(other, one))])
    first, second = found.values[: found.starts[1]], found.values[found.starts[1] :]
    assert jaccard(first, second) < 0.2 and jaccard(first, first) == 1


def test_minhashes_estimate_the_similarity() -> None:
    words = [f"w{number}" for number in range(400)]
    found = shingles([(words, [], []), (words[100:], [], [])])
    truth = jaccard(found.values[: found.starts[1]], found.values[found.starts[1] :])
    signatures = minhashes(found, 2000, 0)
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(truth, abs=0.05)
    bands = band_hashes(signatures, 1000)
    agree = (signatures[0] == signatures[1]).reshape(1000, 2).all(axis=1)
    assert ((bands[:, 0] == bands[:, 1]) == agree).all()
