"""Pipeline from inputs to an indexed dataset with a manifest: everything appears at the end, or nothing.

Processes, or tasks of a cluster, turn pieces of the input into shards (``workdir``); one process merges them.
A run that was killed goes on from the shards that it had finished.
"""

import functools
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, digest_file
from megatron_octo.data.dataset.manifest import FileRecord, Manifest, TokenizerRecord, manifest_path
from megatron_octo.data.dataset.writer import IndexedWriter
from megatron_octo.data.preprocessing.encode import EncodeOptions, Encoder
from megatron_octo.data.preprocessing.merge import merge
from megatron_octo.data.preprocessing.progress import Meter
from megatron_octo.data.preprocessing.shards import ShardMaker
from megatron_octo.data.preprocessing.sources import Input, Piece, open_input, pieces
from megatron_octo.data.preprocessing.work_directory import WorkDir
from megatron_octo.data.preprocessing.workers import ordered_map
from megatron_octo.data.text.formats import is_pretraining, template_path
from megatron_octo.data.text.tokenizer import Tokenizer

DUPLICATES = "duplicate"


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
) -> tuple[Manifest | None, str]:
    """Tokenise rows into ``PREFIX.bin``, ``.idx`` and ``.json``.

    The bytes do not depend on ``workers``, tasks and kills: rows keep their order, or get that of
    ``options.shuffle``.

    Returns:
        The manifest (None after one task of many), and a line that sums up what was done and how fast.

    Raises:
        OctoError: a bad input, row, tokenizer or option. Earlier outputs are then untouched.
    """
    prefix = Path(prefix)
    inputs = _open_inputs(paths, prefix)
    tokenizer = Encoder(options).tokenizer  # bad options fail here, not in every worker
    if options.backend == "auto" and tokenizer.fast is None:
        _say(f"no fast path, {tokenizer.backend} encodes: {tokenizer.why_not}")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    work = WorkDir(prefix, inputs, options)
    if stage.merge and stage.make:
        for other in work.others():
            _say(
                f"inputs, tokenizer or options are not those of the unfinished run in {other}: starting anew"
            )
            WorkDir.discard(other)
    work.open()
    with Meter(sum(source.size for source in inputs)) as meter:
        try:
            if not stage.merge:
                done = _make(work, options, workers, stage, meter)
                return (
                    None,
                    f"task {stage.task} of {stage.tasks}: {done} shards, {meter.summary}; in {work.path}",
                )
            with work.alone(), _Digests(inputs) as digests:
                if stage.make:
                    _make(work, options, workers, stage, meter)
                manifest = _merge(work, options, tokenizer, digests)
        except OSError as error:
            error.filename = error.filename or str(prefix)  # a failed write does not know its file
            raise
        finally:
            if stage.merge and not work.finished():  # a task that has nothing yet is not alone here
                work.remove()
        work.remove()
        return manifest, f"{prefix}: {_counts(manifest)}; {meter.summary}"


class _Missing:
    """Pieces of one stage that have no finished shard yet, in order.

    Attributes:
        kept: pieces so far that have one.
        disks: bytes on disk of the pieces that were given out, in their order.
    """

    def __init__(self, work: WorkDir, stage: Stage, meter: Meter):
        self._work, self._stage, self._meter = work, stage, meter
        self.kept, self.disks = 0, list[int]()

    def __iter__(self) -> Iterator[Piece]:
        for number, piece in enumerate(pieces(self._work.inputs, self._work.size)):
            if number % self._stage.tasks != self._stage.task:
                continue
            if self._work.has(piece.input, piece.start) is not None:
                self.kept += 1
                self._meter.skip(piece.disk)
                continue
            self.disks.append(piece.disk)
            yield piece


def _make(work: WorkDir, options: EncodeOptions, workers: int, stage: Stage, meter: Meter) -> int:
    """Make the shards of this stage that are not there yet; returns how many there are now."""
    if found := work.finished():
        _say(f"going on after {found} finished shards in {work.path}")
    missing = _Missing(work, stage, meter)
    maker = functools.partial(ShardMaker, options, work.path)
    for place, shard in enumerate(ordered_map(maker, missing, workers)):
        meter.update(missing.disks[place], shard.text_bytes, shard.documents, shard.tokens)
    return missing.kept + len(missing.disks)


class _Digests:
    """Digests of the input files, computed in a thread: most of their time is waiting for the disk."""

    def __init__(self, inputs: Sequence[Input]):
        self._inputs, self._found = inputs, dict[str, str]()
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        for source in self._inputs:
            if self._stop:
                return
            try:
                self._found[source.path] = (
                    digest_file(source.path) if source.is_file else digest_bytes(source.identity.encode())
                )
            except OSError:
                return  # said by records

    def __enter__(self) -> "_Digests":
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop = True

    def records(self) -> list[FileRecord]:
        """The inputs, for the manifest.

        Raises:
            OctoError: one changed since the start.
        """
        self._thread.join()
        for source in self._inputs:
            if open_input(source.path) != source or source.path not in self._found:
                raise OctoError("this input changed during the run", where=source.path, hint="start again")
        return [
            FileRecord(path=source.path, bytes=source.size, digest=self._found[source.path])
            for source in self._inputs
        ]


def _merge(work: WorkDir, options: EncodeOptions, tokenizer: Tokenizer, digests: _Digests) -> Manifest:
    prefix, shards = work.prefix, work.shards()
    skipped, notes = Counter[str](), Counter[str]()
    for shard in shards:
        skipped.update(shard.skipped)
        notes.update(shard.notes)
    with IndexedWriter(prefix, tokenizer.vocab_size, work.path) as writer:
        dropped = merge(shards, writer, work.scratch, dedup=options.dedup, shuffle=options.shuffle)
        if not writer.documents:
            what = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "no rows"
            where = ", ".join(source.path for source in work.inputs)
            work.forget()
            raise OctoError(f"not one document in the input ({what})", where=where)
        outputs = writer.finish()
        skipped.update({DUPLICATES: dropped} if options.dedup else {})
        manifest = Manifest(
            version=__version__,
            documents=writer.documents,
            tokens=writer.tokens,
            targets=writer.targets,
            skipped=dict(skipped),
            notes=dict(notes),
            tokenizer=TokenizerRecord(
                path=str(Path(tokenizer.path).resolve()),
                digest=tokenizer.digest,
                vocab_size=tokenizer.vocab_size,
                eod_id=tokenizer.eod_id,
                eod_token=tokenizer.eod_token,
                control={
                    token: tokenizer.control_id(token, "a special token") for token in tokenizer.control
                },
                backend=tokenizer.backend,
                why_no_fast_path=tokenizer.why_not,
                compared=sum(shard.checked for shard in shards),
            ),
            inputs=digests.records(),
            outputs={
                name: FileRecord(
                    path=f"{prefix.name}.{name}", bytes=int(found["bytes"]), digest=str(found["digest"])
                )
                for name, found in outputs.items()
            },
            options={
                **{key: value for key, value in asdict(options).items() if key != "tokenizer"},
                "template": digest_file(template_path(options.format)),
            },
            pretraining=is_pretraining(options.format),
        )
        # Between these steps a crash leaves files without manifest, never with a wrong one.
        manifest_path(prefix).unlink(missing_ok=True)
        writer.commit()
        manifest.write(prefix)
        return manifest


def _counts(manifest: Manifest) -> str:
    skipped = sum(manifest.skipped.values())
    reasons = ", ".join(f"{count} {reason}" for reason, count in manifest.skipped.items())
    return (
        f"{manifest.documents:,} documents, {manifest.tokens:,} tokens, "
        f"{manifest.targets:,} targets, {skipped:,} skipped{f' ({reasons})' if reasons else ''}"
    )
