"""Opens checkpoints of ours for reading."""

from pathlib import Path

from torch import Tensor

from megatron_octo.checkpoint.directory import check_files, read_manifest
from megatron_octo.checkpoint.source import TEXT_FILES, Source
from megatron_octo.checkpoint.tensor_file import TensorFile, open_safetensors
from megatron_octo.common.errors import OctoError


class CheckpointReader(Source):
    """A checkpoint's tensors, digested while they are read.

    Args:
        directory: a checkpoint (see :func:`megatron_octo.checkpoint.directory.find_checkpoint`).
        stream: see :class:`~megatron_octo.checkpoint.tensor_file.TensorFile`.

    Raises:
        OctoError: no manifest, or a broken one.
    """

    def __init__(self, directory: str | Path, stream: bool = False):
        directory, self._stream = Path(directory), stream
        places = [directory / "tokenizer.json", directory.parent.parent / "tokenizer.json"]
        tokenizer = next((place for place in places if place.is_file()), None)
        super().__init__(directory, "checkpoint", read_manifest(directory), self._open, tokenizer)
        recorded = self.manifest.provenance.get(TEXT_FILES, {})
        self.text_files = {name: directory / name for name in recorded if Path(name).name == name}

    def _open(self, name: str) -> TensorFile:
        path, record = self.directory / name, self.manifest.files.get(name)
        if record is None:
            raise OctoError(f"damaged checkpoint: {name!r} is not in the manifest", where=self.directory)
        if path.is_file() and path.stat().st_size != record["bytes"]:
            raise OctoError(
                f"damaged checkpoint: {name} has {path.stat().st_size} bytes, expected {record['bytes']}",
                where=path,
            )
        return open_safetensors(path, record["digest"], self._stream)

    def verify(self) -> None:
        """Compare every file with its digest, apart from reading.

        Raises:
            OctoError: a file is missing, truncated or changed.
        """
        if problems := check_files(self.directory, self.manifest):
            raise OctoError("damaged checkpoint: " + "; ".join(problems), where=self.directory)

    def names(self, kind: str = "weights") -> list[str]:
        """Return the names of all tensors of a kind."""
        return list(self.manifest.tensors.get(kind, {}))

    def keys(self, file: str, prefix: str) -> list[str]:
        """Return the names in one file that start with ``prefix``; none if there is no such file."""
        if file not in self.manifest.files:
            return []
        return [key for key in self.opened(file).tensors if key.startswith(prefix)]

    def state(self, file: str, key: str) -> Tensor:
        """Return a small tensor that belongs to no parameter (a random generator's state)."""
        return self.opened(file).tensor(key)
