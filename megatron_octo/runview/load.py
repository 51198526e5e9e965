"""A run's directory as it is at one moment: state, curves, attempts, checkpoints. Only reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, Field, TypeAdapter

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import jsonl
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import regular
from megatron_octo.common.leases import Owner
from megatron_octo.common.records import Number, Report, Words, checked, ignore
from megatron_octo.common.terminal import printable
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import Attempt, ErrorRecord
from megatron_octo.runfiles.run_lock import sign_of_life
from megatron_octo.runfiles.scores import ScoreLine, read_scores, scores_that_count
from megatron_octo.runfiles.steps import StepLine, read_steps, read_validation, that_count

_QUICK_BYTES = 64 << 20  # of metrics.jsonl: read in a moment
# Columns in use; the file has more.
COLUMNS = (
    "loss",
    "grad_norm",
    "lr",
    "tokens_per_s",
    "tflops_per_gpu",
    "mfu",
    "memory_gib",
    "fill",
    "targets",
    "step_s",
    "data_s",
    "attempt",
)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """Metrics of the steps that no later attempt repeated: ``steps`` int64 [N], COLUMNS float64 [N] (nan: unknown)."""

    steps: NDArray[np.int64]
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.steps)

    def has(self, name: str) -> bool:
        """Return whether a column has a finite value."""
        return bool(np.isfinite(self.columns[name]).any())

    def last(self, count: int) -> "Curves":
        """Return the last steps."""
        return Curves(self.steps[-count:], {name: values[-count:] for name, values in self.columns.items()})

    def median(self, name: str) -> float:
        """Return the median of the finite values; nan if there are none."""
        values = self.columns[name]
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else float("nan")


class _Section(BaseModel):
    """Keys of a recipe's section; other keys are ignored."""


_Count = Annotated[Number, Field(gt=0)]


class _Model(_Section):
    architecture: Words = "gpt_bigcode"
    num_layers: _Count
    hidden_size: _Count


class _Train(_Section):
    steps: _Count


class _Batch(_Section):
    global_size: _Count


class _Data(_Section):
    seq_length: _Count


class _Parallel(_Section):
    tensor: _Count = 1
    pipeline: _Count = 1


class Shape(_Section):
    """The keys of a recipe that are shown, in any version."""

    model: _Model
    train: _Train
    batch: _Batch
    data: _Data
    parallel: _Parallel = _Parallel()


_SHAPE = TypeAdapter(Shape)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the disk.

    Attributes:
        size: bytes.
        problem: the error, for one that is damaged.
    """

    step: int
    size: int
    latest: bool
    problem: str | None = None


@dataclass(frozen=True)
class RunView:
    """A run as its files show it at one moment.

    Attributes:
        recipe: of the last attempt, as a plain mapping: another version may have other keys.
        shape: the keys that are shown.
        status: ``running``, ``stopped``, ``finished``, or ``dead``: recorded as running, and no process does.
        owner: process that trains now, or None.
        heartbeat: seconds since its last sign of life.
        validation: by name, steps and losses.
        problems: records that were passed over, and why.
        scores: of the saves that ``evaluate watch`` scored and no later attempt replaced, by step.
    """

    path: Path
    recipe: dict[str, Any]
    shape: "Shape"
    status: str
    step: int
    saved: int | None
    updated: float | None
    owner: Owner | None
    heartbeat: float | None
    curves: Curves
    validation: dict[str, tuple[Array, Array]]
    attempts: list[Attempt]
    errors: list[ErrorRecord]
    checkpoints: list[Checkpoint]
    problems: list[str] = field(default_factory=list)
    scores: list[ScoreLine] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.shape.train.steps

    @property
    def positions(self) -> int:
        """Tokens per step, padding included."""
        return self.shape.batch.global_size * self.shape.data.seq_length

    @property
    def left_seconds(self) -> float | None:
        """Seconds until the last step, at the median speed of the last hundred; None if it is done or not known."""
        seconds = self.curves.last(100).median("step_s") if len(self.curves) else float("nan")
        left = self.steps - self.step
        return left * seconds if left > 0 and np.isfinite(seconds) else None


def is_run(path: str | Path) -> bool:
    """Return whether a directory is a run's."""
    return (Path(path) / records.RECIPE).is_file()


def _column(rows: Sequence[StepLine], name: str) -> Array:
    values = [row.get(name) for row in rows]
    return np.array([np.nan if value is None else value for value in values], float)


def read_curves(run: Path, tail: bool = False, report: Report = ignore) -> Curves:
    """Read the metrics of a run; with ``tail`` only the last some hundred steps of a very long one."""
    path = run / records.METRICS
    is_long = tail and path.is_file() and path.stat().st_size > _QUICK_BYTES
    rows = read_steps(run, report, tail=jsonl.TAIL if is_long else None)
    steps = np.array([row["step"] for row in rows], np.int64)
    keep = that_count(steps, [row.get("attempt") or 0 for row in rows])
    return Curves(steps[keep], {name: _column(rows, name)[keep] for name in COLUMNS})


def _validation(run: Path, report: Report) -> dict[str, tuple[Array, Array]]:
    rows = [row for row in read_validation(run, report) if row["loss"] is not None]
    found = {}
    for name in sorted({row["name"] for row in rows}):
        mine = [row for row in rows if row["name"] == name]
        steps = np.array([row["step"] for row in mine], np.int64)
        keep = that_count(steps, [row.get("attempt") or 0 for row in mine])
        found[name] = (steps[keep].astype(float), np.array([row["loss"] for row in mine], float)[keep])
    return found


def _checkpoints(run: Path, full: bool) -> list[Checkpoint]:
    folder = run / layout.CHECKPOINTS
    pointer = folder / layout.LATEST
    latest = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    found = []
    for path in layout.list_checkpoints(folder):
        size, problem = 0, None
        try:
            manifest = layout.read_manifest(path)
            size = sum(int(entry["bytes"]) for entry in manifest.files.values())
            if full:
                problem = "; ".join(layout.check_files(path, manifest)) or None
        except OctoError as error:
            problem = error.what
        except FileNotFoundError:  # pruned meanwhile
            continue
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            problem = f"its manifest is not valid ({error})"
        problem = problem and printable(problem)
        found.append(Checkpoint(layout.step_of(path), size, path.name == latest, problem))
    return found


def _recipe(path: Path) -> tuple[dict[str, Any], Shape]:
    try:
        recipe = yaml.safe_load(regular(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = printable(str(error).splitlines()[0])
        raise OctoError(f"broken recipe: {what}", where=path) from None
    try:
        return recipe, checked(_SHAPE, recipe, path)
    except OctoError as error:
        raise OctoError(f"broken recipe: {error.what}", where=path) from None


def load_run(path: str | Path, *, tail: bool = False, full: bool = False) -> RunView:
    """Read a run's directory; records that are not valid are listed in ``problems`` and passed over.

    Args:
        path: the run directory.
        tail: of a very long run only the last steps.
        full: compare every file of its checkpoints with its digest.

    Raises:
        OctoError: it is no run, or its recipe is broken.
    """
    run = Path(path)
    if not is_run(run):
        raise OctoError("this directory holds no recipe.yaml, so it is no run", where=run)
    recipe, shape = _recipe(run / records.RECIPE)
    problems: list[str] = []
    state = records.read_state(run, problems.append)
    owner, age = sign_of_life(run)
    status = state.status
    if status == "running" and owner is None:
        status = "dead"
    elif status == "stopped" and owner is not None:
        status = "running"  # it has just been started again
    curves = read_curves(run, tail, problems.append)
    return RunView(
        path=run,
        recipe=recipe,
        shape=shape,
        status=status,
        step=max(state.step, int(curves.steps[-1]) if len(curves) else 0),
        saved=state.saved,
        updated=state.updated,
        owner=owner,
        heartbeat=age if owner else None,
        curves=curves,
        validation=_validation(run, problems.append),
        attempts=records.read_attempts(run, problems.append),
        errors=records.read_errors(run, report=problems.append),
        checkpoints=_checkpoints(run, full),
        problems=problems,
        scores=scores_that_count(read_scores(run, problems.append)),
    )
