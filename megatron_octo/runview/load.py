"""What a run's directory says: state, curves, attempts, checkpoints. Only reads; a run that trains is not disturbed."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from numpy.typing import NDArray

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import files
from megatron_octo.common.errors import OctoError
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import Attempt, ErrorRecord
from megatron_octo.runfiles.run_lock import LOCK, STALE, Owner, owner_of

_QUICK_BYTES = 64 << 20  # of metrics.jsonl: read in a moment
_TAIL_BYTES = 1 << 18  # some hundred steps
# What is drawn or told; the file has more.
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
    """Metrics of the steps that count, in order: ``steps`` int64 [N], each of COLUMNS float64 [N] (nan: unknown)."""

    steps: NDArray[np.int64]
    columns: dict[str, Array]

    def __len__(self) -> int:
        return len(self.steps)

    def has(self, name: str) -> bool:
        return bool(np.isfinite(self.columns[name]).any())

    def last(self, count: int) -> "Curves":
        return Curves(self.steps[-count:], {name: values[-count:] for name, values in self.columns.items()})

    def median(self, name: str) -> float:
        """Of the known values; nan if there are none."""
        values = self.columns[name]
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else float("nan")


@dataclass(frozen=True)
class Checkpoint:
    step: int
    size: int
    latest: bool
    problem: str | None = None  # what is wrong with it


@dataclass(frozen=True)
class RunView:
    """A run as its files show it at one moment.

    Attributes:
        recipe: of the last attempt, as a plain mapping: a later version may not know all of its keys.
        status: ``running``, ``stopped``, ``finished``, or ``dead``: it says that it runs, and nothing lives.
        owner: who trains now; None if nobody does.
        heartbeat: seconds since its last sign of life.
        validation: by name, steps and losses.
    """

    path: Path
    recipe: dict[str, Any]
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

    @property
    def steps(self) -> int:
        return int(self.recipe["train"]["steps"])

    @property
    def positions(self) -> int:
        """Tokens of a step, padding included."""
        return int(self.recipe["batch"]["global_size"]) * int(self.recipe["data"]["seq_length"])

    @property
    def left_seconds(self) -> float | None:
        """Until the last step, at the speed of the last hundred steps; None if it is done or nothing is known."""
        seconds = self.curves.last(100).median("step_s") if len(self.curves) else float("nan")
        left = self.steps - self.step
        return left * seconds if left > 0 and np.isfinite(seconds) else None


def is_run(path: str | Path) -> bool:
    return (Path(path) / "recipe.yaml").is_file()


def last_that_count(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of records in the order of writing: those that no later attempt has gone back behind."""
    if not len(steps):
        return np.zeros(0, bool)
    lowest_after = np.minimum.accumulate(steps[::-1])[::-1]
    return np.append(steps[:-1] < lowest_after[1:], True)


def _lines(path: Path, tail: bool) -> list[bytes]:
    """Whole lines of a file that may be growing; with ``tail`` only the last ones, if it is a long file."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            start = size - _TAIL_BYTES if tail and size > _QUICK_BYTES else 0
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return []
    lines = data.split(b"\n")[:-1]
    return lines[1:] if start else lines


def _parse(lines: list[bytes]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        try:
            found.append(orjson.loads(line))
        except orjson.JSONDecodeError:  # cut short by a kill, and not yet removed by the next attempt
            continue
    return found


def read_curves(run: Path, tail: bool = False) -> Curves:
    """Metrics of a run; with ``tail`` only the last some hundred steps of a very long one."""
    rows = _parse(_lines(run / records.METRICS, tail))
    steps = np.array([row["step"] for row in rows], np.int64)
    keep = last_that_count(steps)
    columns = {}
    for name in COLUMNS:
        values = [row.get(name) for row in rows]
        columns[name] = np.array([np.nan if value is None else value for value in values], float)[keep]
    return Curves(steps[keep], columns)


def _validation(run: Path) -> dict[str, tuple[Array, Array]]:
    rows = _parse(_lines(run / records.VALIDATION, False))
    found = {}
    for name in sorted({row["name"] for row in rows}):
        mine = [row for row in rows if row["name"] == name]
        steps = np.array([row["step"] for row in mine], np.int64)
        keep = last_that_count(steps)
        found[name] = (steps[keep].astype(float), np.array([row["loss"] for row in mine], float)[keep])
    return found


def _checkpoints(run: Path, full: bool) -> list[Checkpoint]:
    folder = run / layout.CHECKPOINTS
    pointer = folder / layout.LATEST
    latest = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    found = []
    for path in layout.list_checkpoints(folder):
        step, size, problem = int(path.name.removeprefix("step-")), 0, None
        try:
            manifest = layout.read_manifest(path)
            size = sum(int(entry["bytes"]) for entry in manifest.files.values())
            if full:
                problem = "; ".join(layout.check_files(path, manifest)) or None
        except OctoError as error:
            problem = error.what
        except FileNotFoundError:  # pruned while we look
            continue
        found.append(Checkpoint(step, size, path.name == latest, problem))
    return found


def load_run(path: str | Path, *, tail: bool = False, full: bool = False) -> RunView:
    """Read a run's directory.

    Args:
        tail: of a very long run only the last steps.
        full: compare every file of its checkpoints with its digest.

    Raises:
        OctoError: it is no run, or its records are broken.
    """
    run = Path(path)
    if not is_run(run):
        raise OctoError("this directory holds no recipe.yaml, so it is no run", where=run)
    try:
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        int(recipe["train"]["steps"]), int(recipe["batch"]["global_size"]), int(recipe["data"]["seq_length"])
    except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise OctoError(f"broken recipe: {error}", where=run / "recipe.yaml") from None
    state = files.read_json(run / records.STATE) if (run / records.STATE).is_file() else {}
    owner, heartbeat = _sign_of_life(run)
    status = state.get("status", "running")
    if status == "running" and owner is None:
        status = "dead"
    elif status == "stopped" and owner is not None:
        status = "running"  # it has just been started again
    curves = read_curves(run, tail)
    return RunView(
        path=run,
        recipe=recipe,
        status=status,
        step=max(int(state.get("step", 0)), int(curves.steps[-1]) if len(curves) else 0),
        saved=state.get("saved"),
        updated=state.get("updated"),
        owner=owner,
        heartbeat=heartbeat,
        curves=curves,
        validation=_validation(run),
        attempts=records.read_attempts(run),
        errors=records.read_errors(run),
        checkpoints=_checkpoints(run, full),
    )


def _sign_of_life(run: Path) -> tuple[Owner | None, float | None]:
    owner = owner_of(run)
    if owner is None or owner.is_dead():
        return None, None
    try:
        age = max(0.0, time.time() - (run / LOCK).stat().st_mtime)
    except FileNotFoundError:
        return None, None
    return (owner, age) if age < 2 * STALE else (None, None)
