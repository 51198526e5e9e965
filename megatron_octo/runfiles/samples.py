"""Rows of each step: 40 bytes per step in ``RUN/samples.bin``, and the way back from them to documents.

Rows are a pure function of the recipe and the data (docs/data.md), so the place in the plan identifies them. A step
that was computed again after a restart has two records, and the later attempt's counts.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, read_json, regular
from megatron_octo.data.planning.fim import FimTokens
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.row_stream import Position, RowStream, Segment, open_rows
from megatron_octo.recipe.loading import build_recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.steps import that_count

SAMPLES = "samples.bin"
# Little endian: step, rows from (epoch, row) up to (next_epoch, next_row), how many, attempt, whether it was skipped.
RECORD = np.dtype(
    [
        ("step", "<u8"),
        ("epoch", "<u4"),
        ("row", "<u8"),
        ("next_epoch", "<u4"),
        ("next_row", "<u8"),
        ("rows", "<u4"),
        ("attempt", "<u2"),
        ("skipped", "<u2"),
    ]
)

_ATTEMPTS = 50_000  # a record of a later one is damaged


class SampleLog:
    """Appends a record per step; on rank 0."""

    def __init__(self, run: Path, attempt: int):
        path = run / SAMPLES
        self._attempt = attempt
        self._file: IO[bytes] = open(regular(path), "ab")  # noqa: SIM115 - open for the life of the run
        # A kill can cut the last record short.
        self._file.truncate(path.stat().st_size // RECORD.itemsize * RECORD.itemsize)

    def write(self, step: int, before: Position, after: Position, rows: int, skipped: bool) -> None:
        """Append the record of a step made of ``rows`` rows between two positions."""
        place = (before.epoch, before.row, after.epoch, after.row)
        record = np.array((step, *place, rows, min(self._attempt, _ATTEMPTS - 1), skipped), RECORD)
        self._file.write(record.tobytes())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_samples(run: str | Path) -> NDArray[np.void]:
    """Return the records that count, in the order of steps: RECORD [steps].

    Raises:
        OctoError: there is no such file.
    """
    try:
        data = regular(Path(run) / SAMPLES).read_bytes()
    except FileNotFoundError:
        raise OctoError(
            "no record of samples here",
            where=Path(run) / SAMPLES,
            hint="is this a run? the file may also have been removed: training writes it, step by step",
        ) from None
    every = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
    every = every[(every["attempt"] < _ATTEMPTS) & (every["rows"] > 0) & (every["step"] < 1 << 40)]
    return every[that_count(every["step"], every["attempt"])]


def last_attempt(run: str | Path) -> int:
    """Return the attempt of the last record, 0 if there is none that can be read."""
    try:
        with open(regular(Path(run) / SAMPLES), "rb") as file:
            count = file.seek(0, 2) // RECORD.itemsize
            file.seek(max(0, count - 1) * RECORD.itemsize)
            found = np.frombuffer(file.read(RECORD.itemsize), RECORD, count=min(1, count))
    except OSError:
        return 0
    last = int(found["attempt"][0]) if len(found) else 0
    return last if last < _ATTEMPTS else 0


def find_gaps(samples: NDArray[np.void], last: int | None = None) -> list[str]:
    """Return what is missing or read twice; empty if each row came once.

    Args:
        samples: of :func:`read_samples`.
        last: if given, steps from 1 to this one are expected, else those between the first record and the last.
    """
    first, final = (1, last) if last is not None else (0, 0)
    if not len(samples):
        return [_missing(1, last)] if last else []
    one, two = samples[:-1], samples[1:]
    problems = [_missing(first, int(samples["step"][0]) - 1)] if last and samples["step"][0] > first else []
    jumps = two["step"] != one["step"] + 1
    moved = (one["next_epoch"] != two["epoch"]) | (one["next_row"] != two["row"])
    for number in np.flatnonzero(jumps | moved).tolist():
        before, after = one[number], two[number]
        problems.append(
            _missing(int(before["step"]) + 1, int(after["step"]) - 1)
            if jumps[number]
            else f"step {after['step']} begins at epoch {after['epoch']}, row {after['row']}, "
            f"not at {before['next_epoch']}, {before['next_row']}"
        )
    if final and samples["step"][-1] < final:
        problems.append(_missing(int(samples["step"][-1]) + 1, final))
    return problems


def _missing(first: int, last: int) -> str:
    return f"steps {first} to {last} have no record" if first < last else f"step {first} has no record"


@dataclass(frozen=True)
class StepSamples:
    """Rows and documents of a step.

    Attributes:
        skipped: whether the loss guard kept it from the weights.
        rows: (epoch, row).
        documents: of each row, in their order.
        sources: names of the data sets by ``Segment.source``.
    """

    step: int
    attempt: int
    skipped: bool
    seq_length: int
    rows: list[tuple[int, int]]
    documents: list[list[Segment]]
    sources: list[str]
    fim_tokens: FimTokens | None = None


def samples_of_step(run: str | Path, step: int) -> StepSamples:
    """Return the rows and documents of a step, from its record, the attempt's recipe and the data.

    Raises:
        OctoError: the step has no record, or the data has changed since.
    """
    samples = read_samples(run)
    found = samples[samples["step"] == step]
    if not len(found):
        known = f"{samples['step'][0]} to {samples['step'][-1]}" if len(samples) else "none"
        gaps = "".join(f"; {gap}" for gap in find_gaps(samples)[:3])
        raise OctoError(f"no record of step {step}; there are {known}{gaps}", where=Path(run) / SAMPLES)
    record = found[0]
    attempt = int(record["attempt"])
    recipe = build_recipe(records.attempt_recipe(run, attempt))
    cache = Path(recipe.data.plan_cache or Path(run) / "plans")
    stream = open_rows(recipe, read_group(recipe.data.train), recipe.data.fim_rate, cache)
    expected = read_json(Path(run) / records.ATTEMPTS / f"{attempt:03d}.json").get("corpora")
    if expected and stream.corpora_digest != expected:
        raise OctoError("the data has changed since this step was made", where=recipe.data.train)
    rows, _ = stream.take(Position(int(record["epoch"]), int(record["row"])), int(record["rows"]), more=0)
    return StepSamples(
        step=step,
        attempt=attempt,
        skipped=bool(record["skipped"]),
        seq_length=recipe.data.seq_length,
        rows=rows,
        documents=[stream.segments(epoch, row) for epoch, row in rows],
        sources=[str(source.prefix) for source in stream.group.sources],
        fim_tokens=stream.fim_tokens,
    )


def kept_path(run: Path, step: int) -> Path:
    """Return the path of the batch that the loss guard keeps when it stops at a step."""
    return run / "guard" / f"step-{step:08d}.npz"


def keep_batch(path: Path, stream: RowStream, rows: list[tuple[int, int]], about: dict[str, Any]) -> None:
    """Write a batch as ``.npz``, with all that is needed to repeat its step.

    The arrays: ``rows`` int64 [B, 2] (epoch, row); ``tokens``, ``labels`` int64 [B, S]; ``weights`` float32 [B, S];
    ``positions`` int64 [B, S]; ``documents`` int64 [D, 5] (index into rows, data set, document, length, tokens of its
    input that are repeated); ``sources``, the names of the data sets; and a scalar for each of ``about``: step,
    attempt, loss, grad_norm, why.
    """
    batch = stream.batch(rows)
    documents = [
        (number, segment.source, segment.document, len(segment.weights), segment.context)
        for number, (epoch, row) in enumerate(rows)
        for segment in stream.segments(epoch, row)
    ]
    shape = (len(rows), -1)
    arrays: dict[str, Any] = {
        "rows": np.array(rows, np.int64),
        "tokens": batch.tokens.reshape(shape),
        "labels": batch.labels.reshape(shape),
        "weights": batch.weights.reshape(shape),
        "positions": batch.positions.reshape(shape),
        "documents": np.array(documents, np.int64),
        "sources": np.array([str(source.prefix) for source in stream.group.sources]),
        **{name: np.array(value) for name, value in about.items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez_compressed(file, **arrays)


def read_kept(path: Path) -> tuple[StepSamples, str]:
    """Return a batch that :func:`keep_batch` wrote, and the reason; no other file is needed.

    Raises:
        OctoError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        return _kept_samples(kept), str(kept["why"])
    except (ValueError, LookupError, TypeError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise OctoError(f"not a batch that a run kept: {error}", where=path) from None


def _kept_samples(kept: dict[str, Any]) -> StepSamples:
    rows = [(int(epoch), int(row)) for epoch, row in kept["rows"]]
    documents: list[list[Segment]] = [[] for _ in rows]
    places = [0] * len(rows)
    for number, source, document, length, context in kept["documents"].tolist():
        part = slice(places[number], places[number] + length)
        places[number] += length
        tokens = np.append(kept["tokens"][number, part], kept["labels"][number, part][-1:])
        weights = kept["weights"][number, part]
        documents[number].append(Segment(source, document, tokens, weights, context))
    return StepSamples(
        step=int(kept["step"]),
        attempt=int(kept["attempt"]),
        skipped=False,
        seq_length=kept["tokens"].shape[1],
        rows=rows,
        documents=documents,
        sources=[str(name) for name in kept["sources"]],
    )
