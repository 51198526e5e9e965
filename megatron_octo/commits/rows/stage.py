"""Stages: inputs to an output by a function, part by part over processes, resumable after a kill."""

import dataclasses
import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from megatron_octo.commits.rows.job import Job, known_inputs, sum_parts
from megatron_octo.commits.rows.ledger import Ledger, Record
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.rows.reading import (
    check_digest,
    input_files,
    manifest_of,
    open_rows,
    piece_rows,
    signal_kinds,
)
from megatron_octo.commits.rows.row import Item, Kind, Row
from megatron_octo.commits.rows.tally import plain
from megatron_octo.commits.rows.writing import Writer
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import DIGEST_NAME, digest_json, read_json
from megatron_octo.data.preprocessing.sources import Input, Piece, piece_size, pieces
from megatron_octo.data.preprocessing.workers import ordered_map

type Write = Callable[[Item], None]
# (k, n): this process makes every n-th part from the k-th on, beside others with other k.
SHARE: ContextVar[tuple[int, int] | None] = ContextVar("share", default=None)
type Function[S] = Callable[[Iterable[Row], S], Iterator[Row]]


@dataclass(frozen=True)
class Task:
    """What makes one part of an output; it travels to a process.

    Attributes:
        identity: what the part follows from, as JSON.
        work: writes the rows, and returns facts for the manifest; ``rows_in`` among them if it read rows, ``counts`` by
            name and value, which are summed.
        share: its share of the work, in the unit of the total.
        signals: kinds of the signals' columns.
        fits: whether the facts of a part that an earlier start made are still those of the input; None: always.
    """

    identity: Mapping[str, Any]
    work: Callable[[Write], Record]
    share: int = 1
    signals: Mapping[str, Kind] = field(default_factory=dict)
    fits: Callable[[Record], bool] | None = None


def run_tasks(
    job: Job, tasks: Iterable[Task], output: str | Path, *, inputs: Sequence[Mapping[str, Any]], total: int, jobs: int
) -> Record:
    """Run tasks over processes; their parts become the output in the order of the tasks.

    The bytes of the parts do not depend on ``jobs`` and kills. Finished parts are kept in ``OUTPUT.work``. Where
    :data:`SHARE` is set, only its parts are made and the output is left to a start without one.

    Args:
        job: the stage.
        tasks: one for each part, in order; generated anew by each start.
        output: a folder, or a file of rows by its suffix.
        inputs: identities of the inputs, for the manifest, and to know a finished output again.
        total: the sum of all shares.
        jobs: number of processes.

    Returns:
        The manifest.

    Raises:
        OctoError: a bad row or input, or another output is there. What was finished is kept for the next start.
    """
    if jobs < 1:
        raise OctoError(f"--jobs {jobs}: at least 1 is needed", where="command line")
    started = time.monotonic()
    ledger = job.ledger(output, inputs)
    if ledger.is_complete():
        print(f"{job.name}: {output} is complete already", file=sys.stderr)
        return _manifest_of(ledger)
    share = SHARE.get()
    with Meter(job.name, total) as meter, ledger.held(together=share is not None):
        if share is not None:
            parts = _make(job, ledger, tasks, jobs, meter, share)
            return sum_parts(job, parts) | {"seconds": round(time.monotonic() - started, 3)}
        if not ledger.seal():
            parts = _make(job, ledger, tasks, jobs, meter)
            manifest = sum_parts(job, parts) | {"inputs": plain(list(inputs))}
            manifest["seconds"] = round(time.monotonic() - started, 3)
            ledger.finish(parts, manifest)
    return _manifest_of(ledger)


def _manifest_of(ledger: Ledger) -> Record:
    return dict(read_json(manifest_of(ledger.output)))


def _make(
    job: Job, ledger: Ledger, tasks: Iterable[Task], jobs: int, meter: Meter, share: tuple[int, int] = (0, 1)
) -> list[Record]:
    """Make the parts of a share that are missing; returns the records of all of it, in order."""
    base = plain(job.base())
    records: dict[int, Record] = {}
    given: list[tuple[int, str, int]] = []

    def missing() -> Iterator[tuple[Path, Task]]:
        for number, task in enumerate(tasks):
            if number % share[1] != share[0]:
                continue
            identity = digest_json([base, plain(task.identity)])
            record = ledger.find(number, identity)
            if record is not None and (task.fits is None or task.fits(record)):
                records[number] = record
                meter.skip(task.share)
                continue
            given.append((number, identity, task.share))
            yield ledger.part(number), task

    for place, facts in enumerate(ordered_map(functools.partial(_Maker, job), missing(), jobs)):
        number, identity, amount = given[place]
        records[number] = ledger.note(number, identity, facts)
        meter.add(amount, facts["rows"])
    return [records[number] for number in sorted(records)]


class _Maker:
    """Maker of parts in a process."""

    def __init__(self, job: Job):
        self._job = job

    def __call__(self, item: tuple[Path, Task]) -> Record:
        path, task = item
        started, cpu = time.monotonic(), _cpu_seconds()
        with Writer(path, task.signals, leave_out=self._job.leave_out, columns=self._job.columns) as writer:
            facts = task.work(writer.write)
        times = {
            "seconds": round(time.monotonic() - started, 3),
            "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        }
        return writer.tally.record() | facts | times


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the programs that it ran."""
    return sum(os.times()[:4])


def run_stage[S](
    name: str,
    inputs: Sequence[str | Path],
    output: str | Path,
    function: Function[S],
    *,
    settings: Any = None,
    jobs: int = 1,
    signals: Mapping[str, Kind] | None = None,
    leave_out: bool = False,
    same_count: bool = True,
    local: Callable[[int], Any] | None = None,
    note: Callable[[Row], Any] | None = None,
) -> Record:
    """Run a function over the rows of files, shard by shard.

    Args:
        name: of the stage.
        inputs: files of rows, and folders of other stages.
        output: a folder, or a file of rows by its suffix.
        function: takes the rows of a shard and the settings; a function of a module, since it travels to processes.
            It passes rows on that are dropped already (see :func:`each_kept`).
        settings: a dataclass or JSON values that the output follows from; digests of files, not their paths alone.
        jobs: number of processes.
        signals: kinds of the columns that the function adds.
        leave_out: leave dropped rows out of the output; they are counted all the same.
        same_count: whether the function must give as many rows as it takes.
        local: what the function takes in place of the settings, by the number of the shard; a dataclass whose values
            say all that the shard's rows follow from.
        note: returns what the manifest's ``notes`` list of a row, as JSON; None for most rows.

    Returns:
        The manifest.

    Raises:
        OctoError: see :func:`run_tasks`.
    """
    sources = [open_rows(path) for path in input_files(inputs)]
    job = Job(name, settings, leave_out)

    def tasks() -> Iterator[Task]:
        kinds = [{**signal_kinds(source), **(signals or {})} for source in sources]
        for number, piece in enumerate(pieces(sources, piece_size(sources))):
            identity: Record = {"path": piece.source.path, "identity": piece.source.identity}
            identity["rows"] = [piece.start, piece.end]
            given: Any = settings
            if local is not None:
                given = local(number)
                identity["local"] = dataclasses.asdict(given)
            made = _Shard(function, given, same_count, piece, note)
            yield Task(identity, made, piece.disk, kinds[piece.input], made.fits)

    total = sum(source.size for source in sources)
    return run_tasks(job, tasks(), output, inputs=known_inputs(sources), total=total, jobs=jobs)


@dataclass(frozen=True)
class _Shard[S]:
    """The work of a stage on a piece of a file."""

    function: Function[S]
    settings: S
    same_count: bool
    piece: Piece
    note: Callable[[Row], Any] | None = None

    def __call__(self, write: Write) -> Record:
        if self.piece.start == 0:
            check_digest(self.piece.source)
        state, rows_in, rows_out = xxhash.xxh3_128(), 0, 0
        before: Counter[str] = Counter()
        notes: list[Any] = []

        def read() -> Iterator[Row]:
            nonlocal rows_in
            for row in piece_rows(self.piece, state.update):
                rows_in += 1
                if row.drop is not None:
                    before[row.drop] += 1
                yield row

        for row in self.function(read(), self.settings):
            rows_out += 1
            write(row)
            if self.note is not None and (note := self.note(row)) is not None:
                notes.append(note)
        if self.same_count and rows_in != rows_out:
            raise AssertionError(f"{self.function} gave {rows_out} rows of {rows_in}")
        where = {"path": self.piece.source.path, "rows": [self.piece.start, self.piece.end]}
        return {
            "rows_in": rows_in,
            "dropped_before": dict(sorted(before.items())),
            "input": where | {"digest": f"{DIGEST_NAME}:{state.hexdigest()}"},
            "stamp": self.piece.source.stamp,
            **({} if self.note is None else {"notes": notes}),
        }

    def fits(self, record: Record) -> bool:
        """Return whether the input is untouched since; else its bytes decide."""
        source: Input = self.piece.source
        if source.stamp and record.get("stamp") == source.stamp:
            return True
        state = xxhash.xxh3_128()
        for _ in piece_rows(self.piece, state.update):
            pass
        return bool(record["input"]["digest"] == f"{DIGEST_NAME}:{state.hexdigest()}")
