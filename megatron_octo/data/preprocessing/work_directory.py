"""Directory beside the output that keeps finished shards, so that a kill loses little."""

import contextlib
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json, remove_leftovers, write_json
from megatron_octo.common.leases import flock
from megatron_octo.data.dataset.manifest import manifest_path
from megatron_octo.data.preprocessing.encode import EncodeOptions
from megatron_octo.data.preprocessing.shards import Shard, open_shard, shard_path
from megatron_octo.data.preprocessing.sources import Input, piece_size


class WorkDir:
    """``PREFIX.work-KEY``: the key is a digest of inputs, tokenizer and options, so what lies there fits.

    Attributes:
        path: the directory.
        inputs: what is to be done.
        size: bytes of a piece.
    """

    def __init__(self, prefix: Path, inputs: Sequence[Input], options: EncodeOptions):
        self.prefix, self.inputs, self.size = prefix, inputs, piece_size(inputs)
        self._job = {
            "version": __version__,
            "inputs": [[source.path, source.identity] for source in inputs],
            "options": options.identity(),
            "piece": self.size,
        }
        key = digest_json(self._job).partition(":")[2][:10]
        self.path = prefix.with_name(f"{prefix.name}.work-{key}")

    def others(self) -> list[Path]:
        """Directories that an unfinished run with other inputs or options left."""
        name = f"{self.prefix.name}.work-"
        return [
            path
            for path in sorted(self.prefix.parent.iterdir())
            if path.name.startswith(name) and path != self.path and (path / "job.json").is_file()
        ]

    def open(self) -> None:
        """Make the directory, if it is not there."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not (self.path / "job.json").exists():
            write_json(self.path / "job.json", self._job)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs away, and remove what a killed one left half done.

        Raises:
            OctoError: another process works here.
        """
        busy = OctoError(
            "another process works on the same output", where=self.path, hint="wait for it, or end it"
        )
        lock = flock(self.path / "lock", busy)
        try:
            remove_leftovers(self.path)
            remove_leftovers(self.prefix.parent, glob.escape(manifest_path(self.prefix).name))
            shutil.rmtree(self.scratch, ignore_errors=True)
            yield
        finally:
            os.close(lock)

    @property
    def scratch(self) -> Path:
        """Directory for temporary files of the merge."""
        return self.path / "scratch"

    def has(self, number: int, start: int) -> Shard | None:
        """Return the finished shard of a piece, None without one. A damaged one is removed."""
        path = shard_path(self.path, number, start)
        try:
            return open_shard(path)
        except OctoError:
            path.unlink(missing_ok=True)
            return None

    def shards(self) -> list[Shard]:
        """Open all shards in the order of the input.

        Raises:
            OctoError: one is missing.
        """
        found: list[Shard] = []
        for number, source in enumerate(self.inputs):
            place, last = 0, False
            while not last:
                shard = open_shard(shard_path(self.path, number, place))
                if shard is None:
                    raise OctoError(
                        f"the shard that starts at {place:,} of this input is missing",
                        where=source.path,
                        hint=f"run all tasks with the same options before --merge; looked in {self.path}",
                    )
                found.append(shard)
                place, last = shard.end, shard.last
        return found

    def finished(self) -> int:
        """Count the finished shards."""
        return sum(1 for _ in self.path.glob("*.shard"))

    def forget(self) -> None:
        """Remove the shards, which are useless to a later run."""
        for path in self.path.glob("*.shard"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the directory."""
        self.discard(self.path)

    @staticmethod
    def discard(path: Path) -> None:
        """Remove a work directory. What a kill leaves of it has no shard that looks complete and is not."""
        shutil.rmtree(path, ignore_errors=True)
