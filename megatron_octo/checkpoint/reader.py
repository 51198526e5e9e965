"""Reads any box of any tensor of a checkpoint, however it was split when it was written."""

from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry, check_files, read_manifest
from megatron_octo.checkpoint.tensor_writer import DTYPE_NAMES
from megatron_octo.common.errors import OctoError

_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset, shape


def _overlap(a: Box, b: Box) -> tuple[slice, ...] | None:
    """Where two boxes meet, in coordinates of the whole tensor."""
    slices = []
    for a_start, a_size, b_start, b_size in zip(*a, *b):
        start, end = max(a_start, b_start), min(a_start + a_size, b_start + b_size)
        if start >= end:
            return None
        slices.append(slice(start, end))
    return tuple(slices)


def _region(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(*box))


def _inside(region: tuple[slice, ...], offset: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(s.start - o, s.stop - o) for s, o in zip(region, offset))


def rounded(stored: torch.Tensor, dtype: torch.dtype, fragment: Fragment, where: Path) -> torch.Tensor:
    """What a fragment holds, in the dtype that the manifest names: fp32 weights serve as those of a bf16 run, too.

    Raises:
        OctoError: it is stored in a dtype that the manifest does not mean.
    """
    if stored.dtype not in (dtype, torch.float32):
        raise OctoError(
            f"damaged checkpoint: {fragment.key} is stored in {DTYPE_NAMES[stored.dtype]}, "
            f"its manifest says {DTYPE_NAMES[dtype]}",
            where=where / fragment.file,
        )
    return stored.to(dtype)


class WeightReader(Protocol):
    """Weights on disk, read by box: a checkpoint of ours, or another format (conversion/engine/source.py)."""

    directory: Path
    manifest: Manifest

    def read(
        self,
        name: str,
        kind: str = "weights",
        offset: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> torch.Tensor: ...


class CheckpointReader:
    """Lazy access to a checkpoint's tensors.

    Args:
        directory: a checkpoint (see :func:`megatron_octo.checkpoint.directory.find_checkpoint`).

    Raises:
        OctoError: no manifest, or a broken one.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        self._files: dict[str, Any] = {}

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises:
            OctoError: a file is missing, truncated or changed.
        """
        if problems := check_files(self.directory, self.manifest):
            raise OctoError("damaged checkpoint: " + "; ".join(problems), where=self.directory)

    def names(self, kind: str = "weights") -> list[str]:
        return list(self.manifest.tensors.get(kind, {}))

    def _open(self, file: str) -> Any:
        try:
            if file not in self._files:
                self._files[file] = safe_open(self.directory / file, "pt")
            return self._files[file]
        except (SafetensorError, FileNotFoundError) as error:
            raise OctoError(f"damaged checkpoint: {error}", where=self.directory / file) from None

    def _slice(self, fragment: Fragment, index: tuple[slice, ...], dtype: torch.dtype) -> torch.Tensor:
        try:
            found = self._open(fragment.file).get_slice(fragment.key)[index]
            return rounded(found, dtype, fragment, self.directory)
        except SafetensorError as error:
            raise OctoError(f"damaged checkpoint: {error}", where=self.directory / fragment.file) from None

    def keys(self, file: str, prefix: str) -> list[str]:
        """Names in one file that start with ``prefix``; none if the checkpoint has no such file."""
        if file not in self.manifest.files:
            return []
        return [key for key in self._open(file).keys() if key.startswith(prefix)]  # noqa: SIM118 - no mapping

    def state(self, file: str, key: str) -> torch.Tensor:
        """A small tensor that belongs to no parameter (a random generator's state)."""
        # A copy: whoever keeps it must not keep the mapped file, whose place on the disk is freed no earlier.
        found: torch.Tensor = self._open(file).get_tensor(key).clone()
        return found

    def _entry(self, kind: str, name: str) -> TensorEntry:
        entries = self.manifest.tensors.get(kind, {})
        if name not in entries:
            raise OctoError(f"the checkpoint holds no {kind} of {name!r}", where=self.directory)
        return entries[name]

    def read(
        self,
        name: str,
        kind: str = "weights",
        offset: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> torch.Tensor:
        """A box of a tensor, on the CPU in its dtype; the whole tensor by default. What is stored finer is rounded.

        Where one fragment holds it all as it is, the answer is the mapped file itself: copied by whoever uses it, and
        only then read. Changes to it go nowhere.
        """
        entry = self._entry(kind, name)
        dtype = _DTYPES[entry.dtype]
        box = (offset or (0,) * len(entry.shape), shape or entry.shape)
        for fragment in entry.fragments:
            source = (fragment.offset, fragment.shape)
            if fragment.flat is None and (region := _overlap(box, source)) == _region(box):
                return self._slice(fragment, _inside(region, fragment.offset), dtype)
        out = torch.empty(box[1], dtype=dtype)
        covered = 0
        boxes: dict[Box, list[Fragment]] = {}
        for fragment in entry.fragments:
            boxes.setdefault((fragment.offset, fragment.shape), []).append(fragment)
        for source, fragments in boxes.items():
            region = _overlap(box, source)
            if region is None:
                continue
            target = out[_inside(region, box[0])]
            covered += target.numel()
            if fragments[0].flat is None:
                target.copy_(self._slice(fragments[0], _inside(region, source[0]), dtype))
            else:
                whole = torch.empty(source[1], dtype=out.dtype)
                self._fill_flat(whole.view(-1), fragments, 0)
                target.copy_(whole[_inside(region, source[0])])
        if covered != out.numel():
            raise OctoError(f"{kind} of {name!r} is incomplete", where=self.directory)
        return out

    def read_flat(
        self, name: str, kind: str, offset: tuple[int, ...], shape: tuple[int, ...], start: int, end: int
    ) -> torch.Tensor:
        """Elements [start, end) of a box laid flat; reads no more than that when the box was stored as it is.

        As with :meth:`read`, the answer may be the mapped file itself.
        """
        entry = self._entry(kind, name)
        dtype = _DTYPES[entry.dtype]
        same = [f for f in entry.fragments if (f.offset, f.shape) == (offset, shape) and f.flat]
        if not same:
            return self.read(name, kind, offset, shape).reshape(-1)[start:end]
        for fragment in same:
            assert fragment.flat is not None
            low, high = fragment.flat
            if low <= start < end <= high:
                return self._slice(fragment, (slice(start - low, end - low),), dtype)
        out = torch.empty(end - start, dtype=dtype)
        self._fill_flat(out, same, start)
        return out

    def _fill_flat(self, out: torch.Tensor, fragments: list[Fragment], start: int) -> None:
        """Copy the flat fragments that meet [start, start + len(out)) into ``out``."""
        filled = 0
        for fragment in fragments:
            assert fragment.flat is not None
            low, high = max(fragment.flat[0], start), min(fragment.flat[1], start + out.numel())
            if low < high:
                inside = (slice(low - fragment.flat[0], high - fragment.flat[0]),)
                piece = self._slice(fragment, inside, out.dtype)
                out[low - start : high - start].copy_(piece)
                filled += high - low
        if filled != out.numel():
            raise OctoError(f"{fragments[0].key}: fragments do not cover the tensor", where=self.directory)
