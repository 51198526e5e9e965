"""Scoring of a run's saves as they appear, beside the training, on another GPU or node."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from megatron_octo.common.leases import flock
from megatron_octo.common.records import Report, ignore
from megatron_octo.evaluation.records import SCORES
from megatron_octo.runfiles import scores as records
from megatron_octo.runfiles.attempts import RECIPE, is_finished
from megatron_octo.runfiles.history import trained_recipe

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0  # seconds between two looks

Evaluate = Callable[[Path, Path], None]  # a model, and the directory of its evaluation


@dataclass(frozen=True)
class Save:
    """A saved model of a run; a step that a later attempt saved again is another one."""

    path: Path
    step: int
    attempt: int

    @property
    def kind(self) -> str:
        """The folder: ``weights`` or ``checkpoints``."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """The name of its evaluation's directory."""
        return f"{self.path.name}-attempt-{self.attempt}"


def find_saves(run: Path, report: Report = ignore) -> list[Save]:
    """Return the saves that are whole, by step; of a step's two, the weights alone, which are never removed.

    Args:
        run: the run directory.
        report: takes a line about a save that is damaged.
    """
    found: dict[tuple[int, int], Save] = {}
    for folder in (layout.CHECKPOINTS, layout.WEIGHTS):
        for path in layout.list_checkpoints(run / folder):
            try:
                attempt = layout.read_manifest(path).provenance.get("attempt", 0)
            except (OctoError, OSError) as error:
                if path.exists():  # else it was removed at this moment
                    report(f"passed over: {path}: {getattr(error, 'what', error)}")
                continue
            save = Save(path, layout.step_of(path), attempt if isinstance(attempt, int) else 0)
            found[save.step, save.attempt] = save
    return sorted(found.values(), key=lambda save: (save.step, save.attempt))


def watch(
    run: Path,
    output: Path,
    evaluate: Evaluate,
    *,
    once: bool = False,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Score each save of a run once, until the training is finished and nothing is left.

    Args:
        run: the run directory. Only its ``scores.jsonl`` is written.
        output: directory in which each save has a directory of its own.
        evaluate: scores a model into a directory, and goes on with what is there.
        once: score what is there, and do not wait for more.
        say: prints a line.
        sleep: waits for some seconds.

    Returns:
        0: all is scored.

    Raises:
        OctoError: no run, another process watches it, or a save that is still there cannot be scored.
        KeyboardInterrupt: also on SIGTERM and SIGUSR1. The same command goes on.
    """
    if not (run / RECIPE).is_file():
        raise OctoError("this directory holds no recipe.yaml, so it is no run", where=run)
    output.mkdir(parents=True, exist_ok=True)
    busy = OctoError("another process scores the saves of this run", where=run / records.SCORES, hint="one is enough")
    lock = flock(run / records.SCORES, busy)
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        _loop(run, output, evaluate, once, say, sleep)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(lock)
    return 0


def _loop(
    run: Path,
    output: Path,
    evaluate: Evaluate,
    once: bool,
    say: Callable[[str], None],
    sleep: Callable[[float], None],
) -> None:
    gone: set[tuple[int, int]] = set()
    damaged: set[str] = set()

    def report(line: str) -> None:
        if line not in damaged:
            damaged.add(line)
            say(line)

    delay = FIRST_DELAY
    while True:
        # Asked before the saves are listed: one that appears in between would be missed the other way round.
        finished = is_finished(run, _steps(run))
        done = {(line.step, line.attempt) for line in records.read_scores(run)}
        new = [save for save in find_saves(run, report) if (save.step, save.attempt) not in done | gone]
        if new:
            if not _score(run, new[0], output / new[0].name, evaluate, say):
                gone.add((new[0].step, new[0].attempt))
            delay = FIRST_DELAY
        elif finished or once:
            say(f"{run}: scored saves: {len(done)}" + (f"; passed over: {len(gone)}" if gone else ""))
            return
        else:
            if delay == FIRST_DELAY:
                say(f"{run}: waiting for the next save")
            sleep(delay)
            delay = min(LONGEST_DELAY, 1.5 * delay)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _steps(run: Path) -> int:
    train = (trained_recipe(run) or {}).get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    if not isinstance(steps, int):
        raise OctoError("no train.steps", where=run / RECIPE, hint="it is written by the training")
    return steps


def _score(run: Path, save: Save, output: Path, evaluate: Evaluate, say: Callable[[str], None]) -> bool:
    """Score a save and record it; returns False if it vanished meanwhile."""
    say(f"step {save.step:,}: {save.path}")
    started = time.time()
    try:
        evaluate(save.path, output)
    except Exception as error:  # of conversion and of transformers, too: files that vanish have many
        if _is_there(save):
            raise
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        say(f"step {save.step:,}: passed over: the save was removed while it was read ({what})")
        return False
    scores = read_json(output / SCORES)["tasks"]
    tasks: dict[str, Any] = {name: records.task_scores(found, output / SCORES) for name, found in scores.items()}
    line = records.ScoreLine(
        step=save.step,
        attempt=save.attempt,
        kind="weights" if save.kind == layout.WEIGHTS else "checkpoints",
        time=time.time(),
        seconds=time.time() - started,
        tasks=tasks,
    )
    records.append_scores(run, line)
    for name, found in tasks.items():
        if score := found.passes.get(records.K):
            say(f"step {save.step:,}: {name}: pass@1 {score}")
    shutil.rmtree(output / "model", ignore_errors=True)  # the export, as large as the model
    return True


def _is_there(save: Save) -> bool:
    """Return whether the save is still the one that was found."""
    try:
        return bool(layout.read_manifest(save.path).provenance.get("attempt", 0) == save.attempt)
    except (OctoError, OSError):
        return False
