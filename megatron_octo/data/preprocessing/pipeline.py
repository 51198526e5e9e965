"""Pipeline from inputs to an indexed dataset with a manifest: everything appears at the end, or nothing.

Processes, or tasks of a cluster, turn pieces of the input into shards (:mod:`.work_directory`); one process merges
them. A run that was killed goes on from the shards that it had finished.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.common.errors import OctoError, users_mistake
from megatron_octo.data.dataset.manifest import Manifest
from megatron_octo.data.preprocessing.encode import EncodeOptions, Encoder
from megatron_octo.data.preprocessing.finish import Digests, check_existing, merge_shards
from megatron_octo.data.preprocessing.progress import Meter
from megatron_octo.data.preprocessing.shards import Shard, ShardMaker
from megatron_octo.data.preprocessing.sources import Input, Piece, check_input, open_input, pieces
from megatron_octo.data.preprocessing.work_directory import WorkDir
from megatron_octo.data.preprocessing.workers import ordered_map

_ROUNDS = 3  # over inputs that are touched while they are read


@dataclass(frozen=True)
class Stage:
    """Part of the job that this process does: all of it, one task of an array, or the merge after them."""

    task: int = 0
    tasks: int = 1
    make: bool = True
    merge: bool = True


ALL = Stage()


def _open_inputs(paths: Sequence[str], prefix: Path) -> list[Input]:
    if not prefix.name:
        raise OctoError("the output prefix names no file", where=str(prefix), hint="for example data/commits")
    outputs = {Path(f"{prefix}{suffix}").resolve() for suffix in (".bin", ".idx", ".json")}
    inputs = [open_input(path) for path in paths]
    for source in inputs:
        if source.is_file and Path(source.path).resolve() in outputs:
            raise OctoError(
                "the output would overwrite this input",
                where=source.path,
                hint="choose another --output-prefix",
            )
    return inputs


def _say(text: str) -> None:
    print(f"preprocess: {text}", file=sys.stderr, flush=True)


def preprocess(
    paths: Sequence[str],
    prefix: str | Path,
    options: EncodeOptions,
    workers: int,
    stage: Stage = ALL,
    overwrite: bool = False,
) -> tuple[Manifest | None, str]:
    """Tokenise rows into ``PREFIX.bin``, ``.idx`` and ``.json``.

    The bytes do not depend on ``workers``, tasks and kills: rows keep their order, or get that of
    ``options.shuffle``.

    Args:
        paths: the inputs.
        prefix: of the outputs.
        options: of the encoding.
        workers: number of processes.
        stage: part of the job to do.
        overwrite: replace a complete data set that was made from other inputs or with other options.

    Returns:
        The manifest (None after one task of many), and a line that sums up what was done and how fast.

    Raises:
        OctoError: a bad input, row, tokenizer or option, too little memory, or a disk that fails. Earlier outputs are
            then untouched.
    """
    try:
        return _preprocess(paths, Path(prefix), options, workers, stage, overwrite)
    except MemoryError as error:
        more = f": {error}" if str(error) else ""
        raise OctoError(
            f"memory ran out{more}",
            where=str(prefix),
            hint="use fewer --workers, or a machine with more memory",
        ) from None
    except OSError as error:
        error.filename = error.filename or str(prefix)  # a failed write does not name its file
        if users_mistake(error) is None:
            raise OctoError(f"reading or writing failed: {error.strerror or error}", where=error.filename) from None
        raise


def _preprocess(
    paths: Sequence[str], prefix: Path, options: EncodeOptions, workers: int, stage: Stage, overwrite: bool
) -> tuple[Manifest | None, str]:
    inputs = _open_inputs(paths, prefix)
    encoder = Encoder(options)  # bad options fail here, not in every worker
    tokenizer = encoder.tokenizer
    for source in inputs:
        check_input(source, encoder.wanted)
    if options.backend == "auto" and tokenizer.fast is None:
        _say(f"no fast path, {tokenizer.backend} encodes: {tokenizer.why_not}")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    work = WorkDir(prefix, inputs, options)
    if not overwrite:
        check_existing(prefix, work, options, tokenizer)
    maker = functools.partial(ShardMaker, options, work.path, tokenizer.fast is not None)
    held = work.held(alone=stage.merge, discard=stage.merge and stage.make, say=_say)
    with Meter(sum(source.size for source in inputs)) as meter, held:
        try:
            if not stage.merge:
                done = _make(work, maker, workers, stage, meter)
                where = f"{done} shards, {meter.summary}; in {work.path}"
                return None, f"task {stage.task} of {stage.tasks}: {where}"
            with Digests(inputs) as digests:
                if stage.make:
                    _make(work, maker, workers, stage, meter)
                else:
                    _check(work, functools.partial(maker, check_only=True), workers)
                manifest = merge_shards(work, options, tokenizer, digests)
            work.remove()
        except BaseException:
            if stage.merge and not work.finished():  # a task that has nothing yet is not alone here
                work.remove()
            raise
    return manifest, f"{prefix}: {_counts(manifest)}; {meter.summary}"


class _Missing:
    """Pieces of one stage without a shard that is known to fit the input, in order.

    Attributes:
        kept: pieces so far that have one.
        given: the pieces that were given out: bytes on disk, and the shard that may still fit.
    """

    def __init__(self, work: WorkDir, stage: Stage, meter: Meter):
        self._work, self._stage, self._meter = work, stage, meter
        self.kept, self.given = 0, list[tuple[int, Shard | None]]()

    def __iter__(self) -> Iterator[Piece]:
        for number, piece in enumerate(pieces(self._work.inputs, self._work.size)):
            if number % self._stage.tasks != self._stage.task:
                continue
            shard = self._work.has(piece.input, piece.start)
            if shard is not None and self._work.is_current(shard):
                self.kept += 1
                self._meter.skip(piece.disk)
                continue
            self.given.append((piece.disk, shard))
            yield piece


def _make(work: WorkDir, maker: "functools.partial[ShardMaker]", workers: int, stage: Stage, meter: Meter) -> int:
    """Make the shards of this stage that are not there yet; returns how many there are now.

    Raises:
        OctoError: an input changes all the time.
    """
    if found := work.finished():
        _say(f"going on after {found} finished shards in {work.path}")
    for _ in range(_ROUNDS):
        missing, stale = _Missing(work, stage, meter), 0
        for place, shard in enumerate(ordered_map(maker, missing, workers)):
            disk, before = missing.given[place]
            if before == shard:
                meter.skip(disk)
            else:
                stale += before is not None
                meter.update(disk, shard.text_bytes, shard.documents, shard.tokens)
        if stale:
            _say(f"{stale} shards were made from other bytes than the input has now: they were made again")
        if not work.refresh():
            return missing.kept + len(missing.given)
    raise OctoError("an input is changed again and again", where=work.inputs[0].path, hint="start when it is complete")


def _check(work: WorkDir, maker: "functools.partial[ShardMaker]", workers: int) -> None:
    """Compare the shards of all tasks with the bytes of touched inputs.

    Raises:
        OctoError: a shard is missing, or was made from other bytes.
    """
    touched = {shard.input for shard in work.shards() if not work.is_current(shard)}
    todo = (piece for piece in pieces(work.inputs, work.size, touched))
    for _ in ordered_map(maker, todo, workers):
        pass


def _counts(manifest: Manifest) -> str:
    skipped = sum(manifest.skipped.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.skipped.items())
    return (
        f"{manifest.documents:,} documents, {manifest.tokens:,} tokens, "
        f"{manifest.targets:,} targets, {skipped:,} skipped{f' ({reasons})' if reasons else ''}"
    )
