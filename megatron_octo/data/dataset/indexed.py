"""Megatron's indexed dataset (``PREFIX.bin`` + ``PREFIX.idx``), with one mode byte per sequence.

A document is a list of sequences. Mode 1 marks a sequence that is learned (a target), mode 0 one
that is context. A dataset without mode bytes is all target. docs/data.md gives the byte layout.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, digest_file
from megatron_octo.common.ragged import running_sum
from megatron_octo.data.dataset.header import HEADER, REBUILD, read_header

CONTEXT, TARGET = 0, 1
_STEP = 1 << 20  # items looked at in one go by the full check


class Corpus(Protocol):
    """Interface of a data set for the planner and the reader of rows."""

    prefix: str

    def __len__(self) -> int: ...
    def document(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
        """Read the tokens of a document and whether each is a target."""

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each document."""

    def document_targets(self) -> NDArray[np.int64]:
        """Return the target tokens of each document."""

    def target_labels(
        self, documents: NDArray[np.int64], first: NDArray[np.int64], length: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count the target labels of pieces."""

    def digest(self) -> str:
        """Digest the index."""


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the dtype of token ids on disk: uint16 below 65,500 ids (Megatron's rule), int32 above."""
    return np.dtype("<u2" if vocab_size < 65500 else "<i4")


class IndexedDataset:
    """Data set on disk, memory-mapped. ``len()`` is the number of documents, D.

    Attributes:
        lengths: tokens of each sequence, int32 [S].
        document_index: first sequence of each document and one past the last, int64 [D+1].
        modes: 0 context or 1 target of each sequence, int8 [S]; None: everything is a target.

    Raises:
        OctoError: a file is missing, is not an indexed dataset, or does not have the bytes that the index needs.
    """

    def __init__(self, prefix: str | Path):
        self.prefix = str(prefix)
        self.bin_path, self.idx_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise OctoError("no such data set file", where=path, hint="a prefix is the path without .bin or .idx")
        self._open_index()
        self._open_tokens()

    def _open_index(self) -> None:
        path, header = self.idx_path, read_header(self.idx_path)
        self.dtype, sequences, indices = header.dtype, header.sequences, header.documents + 1
        raw = np.memmap(path, mode="r", dtype=np.uint8)

        def array(dtype: str, count: int, offset: int) -> np.ndarray:
            return np.frombuffer(raw, dtype=dtype, count=count, offset=offset)

        offset = HEADER.size
        self.lengths: NDArray[np.int32] = array("<i4", sequences, offset)
        self.pointers: NDArray[np.int64] = array("<i8", sequences, offset + 4 * sequences)
        self.document_index: NDArray[np.int64] = array("<i8", indices, offset + 12 * sequences)
        self.modes: NDArray[np.int8] | None = None
        if header.has_modes:
            self.modes = array("i1", sequences, offset + 12 * sequences + 8 * indices)
        index = self.document_index
        if index[0] != 0 or index[-1] != sequences or np.any(index[1:] < index[:-1]):
            raise OctoError(f"document indices do not cover the {sequences} sequences", where=path, hint=REBUILD)

    def _open_tokens(self) -> None:
        if len(self.lengths) and self.lengths.min() < 0:
            raise OctoError("a sequence has a negative length", where=self.idx_path, hint=REBUILD)
        self.tokens = int(self.lengths.sum(dtype=np.int64))
        found, need = self.bin_path.stat().st_size, self.tokens * self.dtype.itemsize
        if found != need:
            raise OctoError(
                f"{found} bytes, but the index needs {need}: {self.tokens} tokens of {self.dtype.itemsize} bytes",
                where=self.bin_path,
                hint=REBUILD,
            )
        last = need - int(self.lengths[-1]) * self.dtype.itemsize if len(self.lengths) else 0
        if len(self.lengths) and (self.pointers[0] != 0 or self.pointers[-1] != last):
            raise OctoError("byte pointers do not match the lengths", where=self.idx_path, hint=REBUILD)
        # An empty file cannot be mapped.
        self._bin: NDArray[np.integer] = (
            np.memmap(self.bin_path, mode="r", dtype=self.dtype) if need else np.empty(0, self.dtype)
        )

    def __len__(self) -> int:
        return len(self.document_index) - 1

    def document(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
        """Read the tokens of document ``index``, int32 or int64 [n], and whether each is a target, bool [n]."""
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        first, last = int(self.document_index[index]), int(self.document_index[index + 1])
        wide: type[np.integer] = np.int64 if self.dtype.itemsize == 8 else np.int32
        lengths = self.lengths[first:last]
        if first == last:
            return np.empty(0, wide), np.empty(0, bool)
        start = int(self.pointers[first]) // self.dtype.itemsize
        tokens: NDArray[np.integer] = self._bin[start : start + int(lengths.sum(dtype=np.int64))].astype(wide)
        if self.modes is None:
            return tokens, np.ones(len(tokens), bool)
        return tokens, np.repeat(self.modes[first:last] != CONTEXT, lengths)

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each document, int64 [D]."""
        return np.diff(running_sum(self.lengths)[self.document_index])

    def document_targets(self) -> NDArray[np.int64]:
        """Return the target tokens of each document, int64 [D]."""
        return np.diff(self._targets_before()[self.document_index])

    def _targets_before(self) -> NDArray[np.int64]:
        """Sum the target tokens before each sequence, int64 [S+1]."""
        return running_sum(self.lengths if self.modes is None else self.lengths * (self.modes != CONTEXT))

    def target_labels(
        self, documents: NDArray[np.int64], first: NDArray[np.int64], length: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count the target labels of pieces, int64 [P]: the targets among tokens first+1 .. first+length."""
        starts, targets = running_sum(self.lengths), self._targets_before()
        begin = starts[self.document_index[documents]] + first + 1

        def before(token: NDArray[np.int64]) -> NDArray[np.int64]:
            sequence = np.searchsorted(starts, token, side="right") - 1
            inside = token - starts[sequence]
            if self.modes is not None:
                # One past the last token lies in no sequence.
                inside = inside * (np.append(self.modes, np.int8(0))[sequence] != CONTEXT)
            return targets[sequence] + inside

        return before(begin + length) - before(begin)

    def digest(self) -> str:
        """Digest the index: all lengths and modes, on which the rows depend."""
        return digest_file(self.idx_path)

    def problems(self, vocab_size: int | None = None) -> Iterator[str]:
        """Read every byte; yields what is wrong with pointers, modes and token ids (>= ``vocab_size``)."""
        expected = running_sum(self.lengths)[:-1] * self.dtype.itemsize
        if wrong := int(np.count_nonzero(self.pointers != expected)):
            yield f"{wrong} byte pointers do not match the lengths"
        if self.modes is not None and (wrong := int(np.count_nonzero((self.modes != 0) & (self.modes != 1)))):
            yield f"{wrong} mode bytes are neither 0 nor 1"
        if vocab_size is not None:
            blocks = (self._bin[i : i + _STEP] for i in range(0, self.tokens, _STEP))
            if wrong := sum(int(np.count_nonzero((block < 0) | (block >= vocab_size))) for block in blocks):
                yield f"{wrong} token ids are outside the vocabulary of {vocab_size}"


class PairedDataset:
    """Data set in the older layout: context in ``PREFIX_inputs_document``, targets in ``PREFIX_targets_document``.

    Raises:
        OctoError: a file is wrong, or the two have not the same number of documents.
    """

    def __init__(self, prefix: str | Path):
        self.prefix = str(prefix)
        self.inputs = IndexedDataset(f"{prefix}_inputs_document")
        self.targets = IndexedDataset(f"{prefix}_targets_document")
        if len(self.inputs) != len(self.targets):
            raise OctoError(
                f"{len(self.inputs)} documents of inputs but {len(self.targets)} of targets",
                where=self.prefix,
                hint="rows without tokens were dropped from one file only: run preprocess on the jsonl",
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def tokens(self) -> int:
        """Tokens of both files."""
        return self.inputs.tokens + self.targets.tokens

    def document(self, index: int) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
        """Read the tokens of document ``index``, int32 or int64 [n], and whether each is a target, bool [n]."""
        context, target = self.inputs.document(index)[0], self.targets.document(index)[0]
        is_target = np.repeat(np.array([False, True]), [len(context), len(target)])
        return np.concatenate([context, target]), is_target

    def document_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of each document, int64 [D]."""
        return self.inputs.document_lengths() + self.targets.document_lengths()

    def document_targets(self) -> NDArray[np.int64]:
        """Return the target tokens of each document, int64 [D]."""
        return self.targets.document_lengths()

    def target_labels(
        self, documents: NDArray[np.int64], first: NDArray[np.int64], length: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Count the target labels of pieces, int64 [P]: the targets among tokens first+1 .. first+length."""
        context = self.inputs.document_lengths()[documents]
        begin = first + 1 - context
        labels: NDArray[np.int64] = np.maximum(begin + length, 0) - np.maximum(begin, 0)
        return labels

    def digest(self) -> str:
        """Digest both indices."""
        return digest_bytes(self.inputs.digest().encode(), self.targets.digest().encode())

    def problems(self, vocab_size: int | None = None) -> Iterator[str]:
        """Yield what is wrong in either file, as :meth:`IndexedDataset.problems`."""
        for part in (self.inputs, self.targets):
            for problem in part.problems(vocab_size):
                yield f"{part.prefix}: {problem}"


def open_corpus(prefix: str | Path) -> IndexedDataset | PairedDataset:
    """Open a data set in either layout.

    Raises:
        OctoError: there is none, or it is damaged.
    """
    if Path(f"{prefix}.idx").exists() or Path(f"{prefix}.bin").exists():
        return IndexedDataset(prefix)
    if any(Path(f"{prefix}_{part}_document.idx").exists() for part in ("inputs", "targets")):
        return PairedDataset(prefix)
    raise OctoError(
        "no data set here",
        where=f"{prefix}.idx",
        hint="give the --output-prefix of preprocess (the path without .bin or .idx)",
    )
