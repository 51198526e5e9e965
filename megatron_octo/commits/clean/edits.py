"""What makes two edits the same: blob ids, normalised texts, and shingles of the changed lines."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.commits.rows import Row
from megatron_octo.common.errors import OctoError

WORDS = 5  # of a shingle
Hashes = NDArray[np.uint64]


def blob_id(text: str | None) -> str:
    """Return git's id of a file with this text; empty for a missing file."""
    if text is None:
        return ""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def blob_pair(row: Row) -> bytes:
    """Return the digest [16 bytes] of the blob ids before and after; missing ids follow from the contents."""
    old = row.old_blob or blob_id(row.old_contents)
    new = row.new_blob or blob_id(row.new_contents)
    return xxhash.xxh3_128_digest(f"{old} {new}".encode())


def normal_text(row: Row) -> bytes:
    """Return the digest [16 bytes] of subject and contents, in lower case and without differences of white space."""
    state = xxhash.xxh3_128()
    for text in (row.subject, row.old_contents, row.new_contents):
        state.update(
            b"\0none" if text is None else b"\0" + " ".join(text.lower().split()).encode("utf-8", "surrogatepass")
        )
    return state.digest()


Sides = tuple[list[str], list[str], list[str]]


def edit_words(row: Row) -> Sides:
    """Return the words of the subject, of the lines that only the contents before have, and of those only after.

    Neighbouring versions of one file are near duplicates by nature, so lines that both sides hold do not count. The
    sides stay apart, so that an edit and its revert are not alike.
    """
    old, new = (row.old_contents or "").splitlines(), (row.new_contents or "").splitlines()
    in_old, in_new = set(old), set(new)
    before = " ".join([line for line in old if line not in in_new])
    after = " ".join([line for line in new if line not in in_old])
    return row.subject.split(), before.split(), after.split()


@dataclass(frozen=True)
class Shingles:
    """Shingles of some rows: those of row k are ``values[starts[k]:starts[k + 1]]``, ascending and distinct.

    Attributes:
        values: hashes, uint64 [N].
        starts: int64 [rows + 1].
    """

    values: Hashes
    starts: NDArray[np.int64]


def rensa_library() -> Any:
    """Return the library that hashes words and makes MinHashes.

    Raises:
        OctoError: it is missing.
    """
    try:
        import rensa
    except ImportError:
        hint = "pip install 'megatron-octo[commits]'; dedup has --exact-only"
        raise OctoError("this needs the rensa library", hint=hint) from None
    return rensa


def folded(parts: Iterable[Hashes]) -> Hashes:
    """Return one hash of each place in some arrays of one shape; the order of the arrays counts."""
    mixed: Hashes = np.zeros((), np.uint64)
    for part in parts:
        mixed = (mixed ^ part) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def shingles(texts: Sequence[Sides]) -> Shingles:
    """Hash the runs of :data:`WORDS` words of each side; a shorter side is one shingle, an empty one has none."""
    flat = [word for sides in texts for words in sides for word in words]
    hashes = np.asarray(rensa_library().RMinHash.hash_token_sets([flat])[0] if flat else [], np.uint64)
    counts = np.array([len(words) for sides in texts for words in sides], np.int64)
    ends = np.cumsum(counts)
    # A run that would leave its side is cut off at the end of the side: its last words count as none.
    left = np.repeat(ends, counts) - np.arange(len(hashes))  # words from here to the end of the side

    def words_at(place: int) -> Hashes:
        there = np.zeros(len(hashes), np.uint64)
        there[: len(hashes) - place] = hashes[place:]
        return np.where(left > place, there, np.uint64(0))

    mixed = folded(words_at(place) for place in range(WORDS))
    side = np.repeat(np.arange(len(counts)) % 3, counts)
    mixed ^= np.array([0, 0x5851F42D4C957F2D, 0xC2B2AE3D27D4EB4F], np.uint64)[side]
    short = np.repeat(np.minimum(counts, WORDS), counts)
    whole = left >= short  # runs that are not cut off, and a short side's first
    row = np.repeat(np.arange(len(counts)) // 3, counts)[whole]
    values = mixed[whole]
    order = np.lexsort((values, row))
    values, row = values[order], row[order]
    fresh = np.ones(len(values), bool)
    fresh[1:] = (values[1:] != values[:-1]) | (row[1:] != row[:-1])
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.bincount(row[fresh], minlength=len(texts)), out=starts[1:])
    return Shingles(values[fresh], starts)


def minhashes(found: Shingles, permutations: int, seed: int) -> NDArray[np.uint32]:
    """Return the MinHash of each row's shingles, uint32 [rows, permutations]."""
    rows = len(found.starts) - 1
    matrix = rensa_library().RMinHash.digest_matrix_from_flat_token_hashes(
        found.values, found.starts.astype(np.uint64), permutations, seed
    )
    return np.asarray(matrix.to_rows(), np.uint32).reshape(rows, permutations)


def band_hashes(signatures: NDArray[np.uint32], bands: int) -> Hashes:
    """Return the hash of each band of the signatures, uint64 [bands, rows]."""
    rows, permutations = signatures.shape
    width = permutations // bands
    cut = signatures[:, : bands * width].reshape(rows, bands, width).astype(np.uint64)
    mixed = folded(cut[:, :, place] for place in range(width))
    return np.ascontiguousarray(mixed.T)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the share of shingles that two rows have in common, of all that one of them has; 0 for two empty ones."""
    if not len(one) or not len(other):
        return 0.0
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
