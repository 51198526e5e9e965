"""Reads any box of any tensor of weights on disk, of any format and however they were cut when they were written.

A format gives for each box of our tensors its file, key and first row
(:class:`~megatron_octo.checkpoint.directory.Fragment`, :class:`RowsFragment`); the rest is here. Files are digested
while they are read. Knows no process group: training and conversion read the same way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry
from megatron_octo.checkpoint.tensor_file import Stored, TensorFile
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json
from megatron_octo.common.torch_dtypes import DTYPE_NAMES, NAMED_DTYPES

TEXT_FILES = "text_files"  # key of the provenance
BLOCK = 1 << 24  # bytes read at once


@dataclass(frozen=True)
class RowsFragment(Fragment):
    """A box inside a larger stored tensor, from row ``row`` of that on."""

    row: int = 0


@dataclass(frozen=True)
class _Box:
    """A box of a tensor seen as a matrix (a vector is one column), and the fragments that hold it."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    fragments: tuple[Fragment, ...]


def rounded(stored: Tensor, dtype: torch.dtype, fragment: Fragment, where: Path) -> Tensor:
    """Return a fragment in the dtype that the manifest names: fp32 weights serve as those of a bf16 run, too.

    Raises:
        OctoError: it is stored in another dtype.
    """
    if stored.dtype not in (dtype, torch.float32):
        raise OctoError(
            f"damaged checkpoint: {fragment.key} is stored in {DTYPE_NAMES[stored.dtype]}, "
            f"its manifest says {DTYPE_NAMES[dtype]}",
            where=where / fragment.file,
        )
    return stored.to(dtype)


def as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor without a copy."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


class Source:
    """Weights of any format.

    Args:
        directory: for messages.
        format: ``checkpoint``, ``huggingface`` or ``bigcode``.
        manifest: its contents; for a format other than ours, made from its own description.
        open_file: opens one of the files that the manifest's fragments name.
        check: compares copies of what the format stores more than once.

    Attributes:
        tokenizer: its tokenizer.json, if it has one.
        text_files: other files about text (chat template, generation) by name, with digests in the provenance.
    """

    def __init__(
        self,
        directory: Path,
        format: str,
        manifest: Manifest,
        open_file: Callable[[str], TensorFile],
        tokenizer: Path | None = None,
        check: "Callable[[Source], None] | None" = None,
    ):
        self.directory, self.format, self.manifest = directory, format, manifest
        self.tokenizer = tokenizer
        self.text_files: dict[str, Path] = {}
        self._open_file, self._check = open_file, check
        self._files: dict[str, TensorFile] = {}
        self._boxes: dict[tuple[str, str], list[_Box]] = {}

    def shape(self, name: str, kind: str = "weights") -> tuple[int, ...]:
        """Return a tensor's shape, padding included."""
        return self._entry(kind, name).shape

    def dtype(self, name: str, kind: str = "weights") -> torch.dtype:
        """Return the dtype of :meth:`rows`."""
        return NAMED_DTYPES[self._entry(kind, name).dtype]

    def written_dtype(self, name: str, kind: str = "weights") -> torch.dtype:
        """Return the dtype that a conversion writes by default: the tensor's own."""
        return NAMED_DTYPES[self._entry(kind, name).dtype]

    def path_of(self, file: str) -> Path:
        """Return the path of a file of the manifest."""
        return self.directory / file

    def _entry(self, kind: str, name: str) -> TensorEntry:
        entries = self.manifest.tensors.get(kind, {})
        if name not in entries:
            raise OctoError(f"there are no {kind} of {name!r}", where=self.directory)
        return entries[name]

    def files(self, kinds: tuple[str, ...]) -> list[str]:
        """Return the files that hold tensors of some kinds."""
        entries = [entry for kind in kinds for entry in self.manifest.tensors.get(kind, {}).values()]
        return list(dict.fromkeys(fragment.file for entry in entries for fragment in entry.fragments))

    def identity(self, kinds: tuple[str, ...] = ("weights",)) -> str:
        """Return a digest of the manifest and of the sizes and times of the files with tensors of some kinds."""
        stats = {name: self.path_of(name).stat() for name in sorted(self.files(kinds))}
        files = {name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()}
        manifest = self.manifest.to_json()
        return digest_json([str(self.directory.absolute()), manifest, files])

    def opened(self, file: str) -> TensorFile:
        """Return a file, opened once."""
        if file not in self._files:
            self._files[file] = self._open_file(file)
        return self._files[file]

    def check(self) -> None:
        """Compare copies of what the format stores more than once: replicas over ranks, tied tensors.

        Raises:
            OctoError: they differ.
        """
        if self._check:
            self._check(self)

    def digested(self) -> dict[str, int]:
        """Return for each opened file the number of bytes that were digested while they were read."""
        return {name: file.digested for name, file in self._files.items()}

    def check_text(self) -> None:
        """Compare tokenizer.json and other files about text with their recorded digests.

        Raises:
            OctoError: one has changed, or is missing.
        """
        expected = {self.text_files[name]: digest for name, digest in self.text_digests().items()}
        if self.tokenizer and self.manifest.tokenizer:
            expected[self.tokenizer] = self.manifest.tokenizer
        for path, digest in expected.items():
            if not path.is_file() or digest_file(path) != digest:
                how = "has changed since it was recorded (digest differs)" if path.is_file() else "is missing"
                raise OctoError(f"{path.name} {how}", where=path, hint="restore it from a copy")

    def text_digests(self) -> dict[str, str]:
        """Return the digests of :attr:`text_files`."""
        return {name: self.manifest.provenance[TEXT_FILES][name] for name in self.text_files}

    def finish(self, kinds: tuple[str, ...] = ("weights",)) -> None:
        """Compare all files of some kinds with their digests; bytes that were digested already are not read again.

        Raises:
            OctoError: a file is damaged.
        """
        for file in self.files(kinds):
            self.opened(file).finish()

    def read(
        self,
        name: str,
        kind: str = "weights",
        offset: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Return a box of a tensor, on the CPU in its dtype; the whole tensor by default."""
        whole = self.shape(name, kind)
        offset, shape = offset or (0,) * len(whole), shape or whole
        rows, columns = shape[0], math.prod(shape[1:])
        first = offset[1] if len(offset) > 1 else 0
        out = torch.empty(rows, columns, dtype=self.dtype(name, kind))
        step = max(1, BLOCK // max(1, columns * out.itemsize))
        for row in range(0, rows, step):
            stop = min(rows, row + step)
            self.rows(name, kind, (offset[0] + row, offset[0] + stop), (first, first + columns), out[row:stop])
        return out.view(shape)

    def read_flat(
        self, name: str, kind: str, offset: tuple[int, ...], shape: tuple[int, ...], start: int, end: int
    ) -> Tensor:
        """Return elements [start, end) of a box laid flat; reads no more when the box is stored as it is."""
        wanted = tuple((first, first + extent) for first, extent in zip(offset, shape))
        rows, columns = wanted[0], wanted[1] if len(wanted) > 1 else (0, 1)
        for box in self._boxes_of(name, kind):
            if (box.rows, box.columns) == (rows, columns) and len(shape) < 3:
                out = torch.empty(end - start, dtype=self.dtype(name, kind))
                self._read(box, start, out)
                return out
        return self.read(name, kind, offset, shape).reshape(-1)[start:end]

    def rows(self, name: str, kind: str, rows: tuple[int, int], columns: tuple[int, int], out: Tensor) -> None:
        """Fill ``out`` [rows, columns] from a tensor seen as a matrix. Padding of the vocabulary reads as zeros.

        Raises:
            OctoError: a part of it is missing, or a file is damaged.
        """
        covered = 0
        for box in self._boxes_of(name, kind):
            top, bottom = max(rows[0], box.rows[0]), min(rows[1], box.rows[1])
            left, right = max(columns[0], box.columns[0]), min(columns[1], box.columns[1])
            if top < bottom and left < right:
                target = out[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
                self._fill(box, (top - box.rows[0], bottom - box.rows[0]), left - box.columns[0], target)
                covered += target.numel()
        spec = parameter_specs(self.manifest.model).get(name)  # adapters are not of the model, and not padded
        real = max(0, min(rows[1], spec.rows if spec else rows[1]) - rows[0])
        if covered < real * (columns[1] - columns[0]):
            raise OctoError(f"{kind} of {name!r} is incomplete", where=self.directory)
        if covered < out.numel():
            out[real:].zero_()

    def _boxes_of(self, name: str, kind: str) -> list[_Box]:
        if (kind, name) not in self._boxes:
            groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Fragment]] = {}
            for fragment in self._entry(kind, name).fragments:
                if not 1 <= len(fragment.offset) == len(fragment.shape) <= 2:
                    raise OctoError(f"{name!r} is neither a vector nor a matrix", where=self.directory)
                groups.setdefault((fragment.offset, fragment.shape), []).append(fragment)
            self._boxes[kind, name] = [
                _Box(
                    (offset[0], offset[0] + shape[0]),
                    (offset[1], offset[1] + shape[1]) if len(shape) > 1 else (0, 1),
                    tuple(fragments),
                )
                for (offset, shape), fragments in groups.items()
            ]
        return self._boxes[kind, name]

    def _fill(self, box: _Box, rows: tuple[int, int], column: int, target: Tensor) -> None:
        """Read rows of a box, from one of its columns on, into ``target``."""
        width = box.columns[1] - box.columns[0]
        if target.size(1) < width and box.fragments[0].flat is None:
            # A slice of a wide row: read that alone, row by row.
            for number in range(target.size(0)):
                self._read(box, (rows[0] + number) * width + column, target[number])
            return
        whole = target
        if not target.is_contiguous() or target.size(1) < width:
            whole = torch.empty(target.size(0), width, dtype=target.dtype)
        self._read(box, rows[0] * width, whole.view(-1))
        if whole is not target:
            target.copy_(whole[:, column : column + target.size(1)])

    def _read(self, box: _Box, start: int, out: Tensor) -> None:
        """Read elements of a box laid flat, from ``start`` on, into ``out``."""
        filled = 0
        for fragment in box.fragments:
            file = self.opened(fragment.file)
            stored = self._stored(file, fragment)
            base, end = fragment.flat or (0, math.prod(fragment.shape))
            low, high = max(base, start), min(end, start + out.numel())
            if low < high:
                skipped = getattr(fragment, "row", 0) * math.prod(fragment.shape[1:])
                place = stored.start + (skipped + low - base) * stored.dtype.itemsize
                target = out[low - start : high - start]
                raw = target if stored.dtype == out.dtype else torch.empty(high - low, dtype=stored.dtype)
                file.read(place, as_bytes(raw))
                if raw is not target:
                    target.copy_(rounded(raw, out.dtype, fragment, self.directory))
                filled += high - low
        if filled != out.numel():
            raise OctoError(f"{box.fragments[0].key}: fragments do not cover the tensor", where=self.directory)

    def _stored(self, file: TensorFile, fragment: Fragment) -> Stored:
        if fragment.key not in file.tensors:
            raise OctoError(f"damaged: there is no {fragment.key!r}", where=file.path)
        return file.tensors[fragment.key]
