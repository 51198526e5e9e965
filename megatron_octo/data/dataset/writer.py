"""Streaming writer of an indexed dataset: both files appear together, complete, or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import DIGEST_NAME, beside, sync_directory
from megatron_octo.data.dataset.header import DTYPES, HEADER, MAGIC, VERSION
from megatron_octo.data.dataset.indexed import token_dtype

_INT32_MAX = 2**31 - 1
_STEP = 1 << 22  # bytes that are copied in one go


class _Output:
    """File written aside, with the digest of its content."""

    def __init__(self, path: Path, folder: Path):
        self.path = path
        self.aside = beside(folder / path.name)
        self.file: IO[bytes] = open(self.aside, "wb", buffering=1 << 20)  # noqa: SIM115
        self._state = xxhash.xxh3_128()

    def write(self, data: bytes | memoryview) -> None:
        self.file.write(data)
        self._state.update(data)

    @property
    def digest(self) -> str:
        return f"{DIGEST_NAME}:{self._state.hexdigest()}"

    def seal(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def drop(self) -> None:
        try:
            self.file.close()  # flushes, which fails again on a full disk
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
        finally:
            self.aside.unlink(missing_ok=True)


class _Spool:
    """Part of the index, kept in a nameless file until it is written: memory does not grow with the data."""

    def __init__(self, folder: Path, dtype: str):
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype).tobytes())

    def __iter__(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while data := self._file.read(_STEP):
            yield np.frombuffer(data, self._dtype)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


class IndexedWriter:
    """Writes documents of sequences; the files take their names in :meth:`commit`.

    Use it as a context manager: uncommitted files are removed. Memory stays small whatever is written.

    Args:
        prefix: path without ``.bin`` and ``.idx``. Files of an earlier run stay until the commit.
        vocab_size: decides the dtype on disk (see :func:`token_dtype`).
        folder: where unfinished files lie, on the same file system; by default beside the finished ones.

    Attributes:
        documents, sequences, tokens, targets: what was written so far.
    """

    def __init__(self, prefix: str | Path, vocab_size: int, folder: Path | None = None):
        folder = folder or Path(prefix).parent
        self.prefix = str(prefix)
        self.dtype = token_dtype(vocab_size)
        self.documents = self.sequences = self.tokens = self.targets = 0
        self._outputs: list[_Output] = []
        self._spools: list[_Spool] = []
        try:
            for suffix in ("bin", "idx"):
                self._outputs.append(_Output(Path(f"{prefix}.{suffix}"), folder))
            for dtype in ("<i4", "<i4", "i1"):
                self._spools.append(_Spool(folder, dtype))
        except BaseException:
            self._drop()
            raise
        self._bin, self._idx = self._outputs
        self._lengths, self._counts, self._modes = self._spools

    def add_document(self, sequences: Sequence[tuple[Sequence[int] | np.ndarray, int]]) -> None:
        """Append one document: pairs of token ids and mode (0 context, 1 target)."""
        tokens = [np.asarray(ids, self.dtype) for ids, _ in sequences]
        self.add_block(
            b"".join(part.tobytes() for part in tokens),
            np.array([len(part) for part in tokens], np.int64),
            np.array([mode for _, mode in sequences], np.int8),
            np.array([len(tokens)], np.int64),
        )

    def add_block(
        self,
        data: bytes | memoryview | Iterable[bytes],
        lengths: NDArray[np.integer],
        modes: NDArray[np.int8],
        counts: NDArray[np.integer],
    ) -> None:
        """Append many documents at once.

        Args:
            data: their tokens in the dtype of the file, end to end; in one piece or in several.
            lengths: tokens of each sequence, int [S].
            modes: mode of each sequence, int8 [S].
            counts: sequences of each document, int [D].

        Raises:
            OctoError: a sequence is longer than the format can say (2**31 - 1 tokens).
        """
        if len(lengths) and lengths.max() > _INT32_MAX:
            raise OctoError(f"a sequence of {lengths.max()} tokens is too long for the format", where=self.prefix)
        for part in [data] if isinstance(data, bytes | memoryview) else data:
            self._bin.write(part)
        for spool, values in ((self._lengths, lengths), (self._counts, counts), (self._modes, modes)):
            spool.add(values)
        self.documents += len(counts)
        self.sequences += len(lengths)
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.targets += int(lengths[modes != 0].sum(dtype=np.int64))

    def _write_index(self) -> None:
        code = next(code for code, dtype in DTYPES.items() if dtype == self.dtype)
        self._idx.write(HEADER.pack(MAGIC, VERSION, code, self.sequences, self.documents + 1))
        for lengths in self._lengths:
            self._idx.write(lengths.tobytes())
        start = 0
        for lengths in self._lengths:
            ends = start + np.cumsum(lengths, dtype=np.int64) * self.dtype.itemsize
            self._idx.write(np.concatenate([[start], ends[:-1]]).astype("<i8").tobytes())
            start = int(ends[-1])
        first = 0
        self._idx.write(np.int64(0).astype("<i8").tobytes())
        for counts in self._counts:
            ends = first + np.cumsum(counts, dtype=np.int64)
            self._idx.write(ends.astype("<i8").tobytes())
            first = int(ends[-1])
        for modes in self._modes:
            self._idx.write(modes.tobytes())

    def finish(self) -> dict[str, dict[str, str | int]]:
        """Complete both files under their temporary names; returns size and digest of each."""
        self._write_index()
        for output in (self._bin, self._idx):
            output.seal()
        return {
            name: {"bytes": output.aside.stat().st_size, "digest": output.digest}
            for name, output in (("bin", self._bin), ("idx", self._idx))
        }

    def commit(self) -> None:
        """Give the finished files their names (call :meth:`finish` before).

        The old index goes first: a crash in between leaves a data set without index, which is an
        error when it is opened, and never an old index on new tokens.
        """
        self._idx.path.unlink(missing_ok=True)
        for output in (self._bin, self._idx):
            os.replace(output.aside, output.path)
        sync_directory(self._bin.path.parent)

    def _drop(self) -> None:
        for spool in self._spools:
            spool.close()
        for output in self._outputs:
            output.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
