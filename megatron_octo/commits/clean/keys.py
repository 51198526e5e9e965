"""Keys of all rows on disk, a file for each piece of the input: what duplicates are found by, without the contents."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.commits.clean import edits
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.rows.reading import piece_rows
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, digest_json, remove_leftovers
from megatron_octo.data.preprocessing.sources import Input, Piece, piece_size, pieces
from megatron_octo.data.preprocessing.workers import ordered_map

_COMMIT = 64  # bytes of an id that count


@dataclass(frozen=True)
class Near:
    """Settings of the search for near duplicates.

    Attributes:
        threshold: least Jaccard similarity of two edits' shingles.
        permutations: of a MinHash.
        bands: into which it is cut; rows that agree in one are compared.
        seed: of the permutations.
    """

    threshold: float = 0.7
    permutations: int = 252
    bands: int = 36
    seed: int = 0


@dataclass(frozen=True)
class Keys:
    """Keys of a piece's rows.

    Attributes:
        commit: ids, bytes [rows, 64].
        tie: hash of the file's names, uint64 [rows]; it orders rows of one commit.
        kept: rows that no stage before dropped, bool [rows].
        pair: digest of the blob ids, bytes [rows, 16]; zeros where they are unknown.
        text: digest of the normalised texts, bytes [rows, 16]; zeros without contents.
        path: the file, for the bands and shingles.
    """

    commit: NDArray[np.bytes_]
    tie: NDArray[np.uint64]
    kept: NDArray[np.bool_]
    pair: NDArray[np.void]
    text: NDArray[np.void]
    path: Path

    def bands(self) -> NDArray[np.uint64]:
        """Return the hashes of the bands, uint64 [bands, rows], mapped from disk."""
        found: NDArray[np.uint64] = np.load(self.path.with_suffix(".bands.npy"), mmap_mode="r")
        return found

    def shingles(self) -> edits.Shingles:
        """Return the shingles, mapped from disk."""
        values = np.load(self.path.with_suffix(".shingles.npy"), mmap_mode="r")
        return edits.Shingles(values, np.load(self.path.with_suffix(".starts.npy")))


def make_keys(sources: Sequence[Input], folder: Path, near: Near | None, jobs: int) -> list[Keys]:
    """Make the keys of all pieces, or take those of an earlier start; in order.

    A process holds the rows of one piece. Files take about 8 bytes per changed word and 250 per row.
    """
    remove_leftovers(folder)
    numbered = enumerate(pieces(sources, piece_size(sources)))
    with Meter("dedup, keys", sum(source.size for source in sources)) as meter:
        found = []
        for path, share, count in ordered_map(functools.partial(_Maker, folder, near), numbered, jobs):
            meter.add(share, count)
            found.append(_load(path))
    return found


class _Maker:
    def __init__(self, folder: Path, near: Near | None) -> None:
        self._folder, self._near = folder, near

    def __call__(self, item: tuple[int, Piece]) -> tuple[Path, int, int]:
        number, piece = item
        source = piece.source
        known = [source.path, source.identity, source.stamp, piece.start, piece.end, str(self._near)]
        name = xxhash.xxh3_64_hexdigest(digest_json(known).encode())
        path = self._folder / f"{number:05d}-{name}.keys.npz"
        if not path.exists():
            self._make(path, piece)
        with np.load(path) as stored:
            return path, piece.disk, len(stored["tie"])

    def _make(self, path: Path, piece: Piece) -> None:
        commits, ties, kept, pairs, texts, words = [], [], [], [], [], []
        for row in piece_rows(piece):
            commits.append(row.commit.encode("utf-8", "surrogatepass")[:_COMMIT])
            ties.append(xxhash.xxh3_64_intdigest(f"{row.old_file}\0{row.new_file}".encode("utf-8", "surrogatepass")))
            kept.append(row.kept)
            has_texts = row.kept and (row.old_contents is not None or row.new_contents is not None)
            has_blobs = row.old_blob is not None or row.new_blob is not None
            pairs.append(edits.blob_pair(row) if row.kept and (has_blobs or has_texts) else bytes(16))
            texts.append(edits.normal_text(row) if has_texts else bytes(16))
            if self._near is not None:
                words.append(edits.edit_words(row) if has_texts else ([], [], []))
        if self._near is not None:
            shingles = edits.shingles(words)
            signatures = edits.minhashes(shingles, self._near.permutations, self._near.seed)
            _save(path.with_suffix(".bands.npy"), edits.band_hashes(signatures, self._near.bands))
            _save(path.with_suffix(".shingles.npy"), shingles.values)
            _save(path.with_suffix(".starts.npy"), shingles.starts)
        with atomic_write(path) as file:  # last: its presence says that the others are there
            np.savez(
                file,
                commit=np.array(commits, f"S{_COMMIT}"),
                tie=np.array(ties, np.uint64),
                kept=np.array(kept, bool),
                pair=np.frombuffer(b"".join(pairs), "V16"),
                text=np.frombuffer(b"".join(texts), "V16"),
            )


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


def _load(path: Path) -> Keys:
    try:
        with np.load(path) as stored:
            return Keys(**{name: stored[name] for name in ("commit", "tie", "kept", "pair", "text")}, path=path)
    except (OSError, ValueError, KeyError) as error:
        raise OctoError(f"damaged keys: {error}", where=path, hint="remove the folder and start again") from None


def places(keys: Sequence[Keys]) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of each piece in the numbering of all rows."""
    start = 0
    for each in keys:
        yield start, start + len(each.tie)
        start += len(each.tie)
