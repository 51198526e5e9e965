"""Which rows each step was made of: 40 bytes a step in ``RUN/samples.bin``, and the way back to documents.

Rows are a pure function of the recipe and the data (docs/data.md), so the place in the plan says it all. A step that
was computed again after a restart has two records, and the later one counts.
"""

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, read_json
from megatron_octo.data.planning.fim import FimTokens
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.row_stream import Position, RowStream, Segment, open_rows
from megatron_octo.recipe.loading import build_recipe
from megatron_octo.runfiles import attempts as records

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


class SampleLog:
    """Appends a record a step; on rank 0."""

    def __init__(self, run: Path, attempt: int):
        path = run / SAMPLES
        self._attempt = attempt
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 - open for the life of the run
        # A kill can cut the last record short.
        self._file.truncate(path.stat().st_size // RECORD.itemsize * RECORD.itemsize)

    def write(self, step: int, before: Position, after: Position, rows: int, skipped: bool) -> None:
        place = (before.epoch, before.row, after.epoch, after.row)
        record = np.array((step, *place, rows, self._attempt, skipped), RECORD)
        self._file.write(record.tobytes())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_samples(run: str | Path) -> NDArray[np.void]:
    """The record that counts of each step, in order, RECORD [steps]; after a rollback only what is still valid."""
    try:
        data = (Path(run) / SAMPLES).read_bytes()
    except FileNotFoundError:
        raise OctoError(
            "no record of samples here", where=Path(run) / SAMPLES, hint="is this a run?"
        ) from None
    every = np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
    # Going back to step k makes all later ones of the attempts before void.
    kept: list[int] = []
    for number, step in enumerate(every["step"].tolist()):
        while kept and int(every["step"][kept[-1]]) >= step:
            kept.pop()
        kept.append(number)
    return every[kept]


def find_gaps(samples: NDArray[np.void]) -> list[str]:
    """What is missing or read twice between successive steps; empty if each row came once."""
    problems = []
    for one, two in pairwise(samples):
        if two["step"] != one["step"] + 1:
            problems.append(f"steps {one['step'] + 1} to {two['step'] - 1} have no record")
        elif (one["next_epoch"], one["next_row"]) != (two["epoch"], two["row"]):
            problems.append(
                f"step {two['step']} begins at epoch {two['epoch']}, row {two['row']}, "
                f"not at {one['next_epoch']}, {one['next_row']}"
            )
    return problems


@dataclass(frozen=True)
class StepSamples:
    """What a step was made of.

    Attributes:
        skipped: whether the guard kept it from the weights.
        rows: (epoch, row).
        documents: of each row, in their order.
        sources: names of the data sets that ``Segment.source`` counts.
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
    """The rows and documents of a step, from the log, the attempt's recipe and the data.

    Raises:
        OctoError: there is no such step, or the data has changed since.
    """
    samples = read_samples(run)
    found = samples[samples["step"] == step]
    if not len(found):
        known = f"{samples['step'][0]} to {samples['step'][-1]}" if len(samples) else "none"
        raise OctoError(f"no record of step {step}; there are {known}", where=Path(run) / SAMPLES)
    record = found[0]
    attempt = int(record["attempt"])
    recipe = build_recipe(records.attempt_recipe(run, attempt))
    cache = Path(recipe.data.plan_cache or Path(run) / "plans")
    stream = open_rows(recipe, read_group(recipe.data.train), recipe.data.fim_rate, cache)
    expected = read_json(Path(run) / records.ATTEMPTS / f"{attempt:03d}.json").get("corpora")
    if expected and stream.corpora_digest != expected:
        raise OctoError("the data has changed since this step was made", where=recipe.data.train)
    rows, _ = stream.take(Position(int(record["epoch"]), int(record["row"])), int(record["rows"]))
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
    """Where the guard keeps the batch of a step that it stopped at."""
    return run / "guard" / f"step-{step:08d}.npz"


def keep_batch(path: Path, stream: RowStream, rows: list[tuple[int, int]], about: dict[str, Any]) -> None:
    """Write all that a batch was made of as ``.npz``: it is enough to repeat its step.

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
    """A batch that :func:`keep_batch` wrote, and why it was kept. Nothing else has to be there.

    Raises:
        OctoError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise OctoError(f"not a batch that a run kept: {error}", where=path) from None
    rows = [(int(epoch), int(row)) for epoch, row in kept["rows"]]
    documents: list[list[Segment]] = [[] for _ in rows]
    places = [0] * len(rows)
    for number, source, document, length, context in kept["documents"].tolist():
        part = slice(places[number], places[number] + length)
        places[number] += length
        tokens = np.append(kept["tokens"][number, part], kept["labels"][number, part][-1:])
        weights = kept["weights"][number, part]
        documents[number].append(Segment(source, document, tokens, weights, context))
    samples = StepSamples(
        step=int(kept["step"]),
        attempt=int(kept["attempt"]),
        skipped=False,
        seq_length=kept["tokens"].shape[1],
        rows=rows,
        documents=documents,
        sources=[str(name) for name in kept["sources"]],
    )
    return samples, str(kept["why"])
