"""Directory beside the output that keeps finished shards, so that a kill loses little."""

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json, remove_leftovers, write_json
from megatron_octo.common.leases import flock
from megatron_octo.data.dataset.manifest import manifest_path
from megatron_octo.data.preprocessing.encode import EncodeOptions
from megatron_octo.data.preprocessing.shards import Shard, open_shard, shard_path
from megatron_octo.data.preprocessing.sources import Input, open_input, piece_size


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
        """List the directories of runs with other inputs or options on the same output."""
        name = f"{self.prefix.name}.work-"
        return [
            path
            for path in sorted(self.prefix.parent.iterdir())
            if path.name.startswith(name) and path != self.path and (path / "job.json").is_file()
        ]

    @contextlib.contextmanager
    def held(self, *, alone: bool, discard: bool, say: Callable[[str], None]) -> Iterator[None]:
        """Make the directory and hold it, so that no run with this output disturbs another.

        Args:
            alone: keep every other run away, and remove what a killed one left half done; tasks of one job share.
            discard: remove what unfinished runs with other inputs or options left.
            say: takes messages.

        Raises:
            OctoError: another process works on the same output.
        """
        with contextlib.ExitStack() as stack:
            with _locked(self.prefix.parent, wait=True):
                for other in self.others():
                    with _locked(other / "lock"):
                        if discard:
                            say(f"the unfinished run in {other} had other inputs, tokenizer or options: starting anew")
                            shutil.rmtree(other, ignore_errors=True)
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_locked(self.path / "lock", shared=not alone))
                if not (self.path / "job.json").exists():
                    write_json(self.path / "job.json", self._job)
            if alone:
                remove_leftovers(self.path)
                remove_leftovers(self.prefix.parent, glob.escape(manifest_path(self.prefix).name))
                shutil.rmtree(self.scratch, ignore_errors=True)
            yield

    def refresh(self) -> bool:
        """Look at the inputs again; returns whether one was touched since the last look.

        Raises:
            OctoError: its size or time of change is another one.
        """
        now = [open_input(source.path) for source in self.inputs]
        for source, found in zip(self.inputs, now):
            if found != source:
                raise OctoError("this input changed during the run", where=source.path, hint="start again")
        touched = [source.stamp for source in self.inputs] != [found.stamp for found in now]
        self.inputs = now
        return touched

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

    def is_current(self, shard: Shard) -> bool:
        """Return whether the input of a shard is untouched since it was made; otherwise its bytes decide."""
        stamp = self.inputs[shard.input].stamp
        return bool(stamp) and shard.source_stamp == stamp

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
        """Remove the directory; call it while it is held."""
        with _locked(self.prefix.parent, wait=True):
            shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file or a directory. A killed process loses its locks.

    Raises:
        OctoError: another process holds it, unless ``wait`` is set.
    """
    busy = OctoError(
        "another process works on the same output",
        where=path.parent,
        hint="wait for it, end it, or choose another --output-prefix",
    )
    handle = flock(path, None if wait else busy, shared=shared)
    try:
        yield
    finally:
        os.close(handle)
