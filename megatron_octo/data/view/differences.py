"""Comparison of two data sets: whether they hold the same documents, or where they first differ."""

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.files import digest_file
from megatron_octo.data.dataset.indexed import Corpus, IndexedDataset, open_corpus
from megatron_octo.data.text.tokenizer import Tokenizer

_AROUND = 8  # tokens shown on either side of a difference


def compare(first: str, second: str, tokenizer: Tokenizer | None = None) -> tuple[bool, str]:
    """Compare documents: tokens, and which of them are targets.

    Files of equal digests are equal. Otherwise documents are compared in order, whatever dtype or layout the files
    have; where they differ, hashes say whether it is only their order.

    Args:
        first: prefix of a data set.
        second: prefix of the other.
        tokenizer: to show the text around the difference, None to show ids.

    Returns:
        Whether they hold the same documents in the same order, and a sentence about it.

    Raises:
        OctoError: one of them cannot be opened.
    """
    a, b = open_corpus(first), open_corpus(second)
    if (
        isinstance(a, IndexedDataset)
        and isinstance(b, IndexedDataset)
        and a.digest() == b.digest()
        and digest_file(a.bin_path) == digest_file(b.bin_path)
    ):
        return True, f"the same {len(a):,} documents, byte by byte"
    difference = _first_difference(a, b, tokenizer)
    if difference is None and len(a) == len(b):
        return True, f"the same {len(a):,} documents in the same order, in other files"
    said = difference or f"all {min(len(a), len(b)):,} documents that both have are the same"
    counts = "" if len(a) == len(b) else f" ({len(a):,} documents here, {len(b):,} in {second})"
    if len(a) == len(b) and _content(a) == _content(b):
        counts = "; both hold the same documents in another order"
    return False, said + counts


def _first_difference(a: Corpus, b: Corpus, tokenizer: Tokenizer | None) -> str | None:
    for number in range(min(len(a), len(b))):
        (ids_a, learned_a), (ids_b, learned_b) = a.document(number), b.document(number)
        shorter = min(len(ids_a), len(ids_b))
        tokens = np.flatnonzero(ids_a[:shorter] != ids_b[:shorter])
        modes = np.flatnonzero(learned_a[:shorter] != learned_b[:shorter])
        if len(tokens) and (not len(modes) or tokens[0] <= modes[0]):
            place = int(tokens[0])
            return (
                f"document {number} differs at token {place}: {_show(ids_a, place, tokenizer)} here, "
                f"{_show(ids_b, place, tokenizer)} there"
            )
        if len(modes):
            kinds = ("context", "target")
            here, there = (kinds[int(learned[modes[0]])] for learned in (learned_a, learned_b))
            return f"document {number} differs at token {modes[0]}: {here} here, {there} there"
        if len(ids_a) != len(ids_b):
            return f"document {number} has {len(ids_a):,} tokens here, {len(ids_b):,} there"
    return None


def _show(ids: NDArray[np.integer], place: int, tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return str(ids[place])
    return repr(tokenizer.decode(ids[max(place - _AROUND, 0) : place + _AROUND].tolist()))


def _content(corpus: Corpus) -> int:
    """Hash all documents, independent of their order."""
    total = 0
    for number in range(len(corpus)):
        ids, learned = corpus.document(number)
        total += xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes() + learned.tobytes())
    return total % 2**64
