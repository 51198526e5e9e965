"""Scores of a run while it trains: each saved model is scored as it appears, on another GPU or node."""

import time
from collections.abc import Callable
from pathlib import Path

from megatron_octo.checkpoint.directory import CHECKPOINTS, MANIFEST, WEIGHTS, list_checkpoints, step_of
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from megatron_octo.evaluation.results.summary import TaskScore
from megatron_octo.runfiles.attempts import read_state
from megatron_octo.runfiles.scores import ScoreLine, append_score, read_scores

POLL_S = 20.0
_FINISHED = "finished"


def saves_of(run: Path) -> dict[int, Path]:
    """Return the saved models of a run by step; weights alone are preferred, for they are smaller."""
    found = {}
    for folder in (run / CHECKPOINTS, run / WEIGHTS):
        if folder.is_dir():
            found.update({step_of(path): path for path in list_checkpoints(folder)})
    return dict(sorted(found.items()))


def watch(
    run: Path,
    evaluate: Callable[[Path, Path], dict[str, TaskScore]],
    output: Path,
    *,
    poll_s: float = POLL_S,
    say: Callable[[str], None] = print,
) -> int:
    """Score each save once, until the run is finished and all of its saves are scored; returns their number.

    Args:
        run: the run's directory; ``scores.jsonl`` is written there, and nothing else.
        evaluate: scores a save into a directory of its own.
        output: directory of these directories.
        poll_s: seconds between looks at the run.
        say: takes a line about what happens.

    Raises:
        OctoError: no such run.
    """
    if not run.is_dir():
        raise OctoError("no such run", where=run)
    scored = 0
    while True:
        finished = read_state(run).status == _FINISHED  # before the look: its last save is there by then
        waiting = _waiting(run)
        if not waiting and finished:
            return scored
        for step, save in waiting:
            scored += _score(run, step, save, evaluate, output, say)
            break  # look again: newer ones may be there, and this one gone
        else:
            time.sleep(poll_s)


def _digest(save: Path) -> str | None:
    try:
        return str(read_json(save / MANIFEST)["digest"])
    except (OctoError, OSError, KeyError, TypeError):
        return None  # it was removed, or is damaged


def _waiting(run: Path) -> list[tuple[int, Path]]:
    """Return the saves without scores, oldest first. A save of the same step with other weights is another one."""
    done = {(line["step"], line["save"]) for line in read_scores(run)}
    found = [(step, path, _digest(path)) for step, path in saves_of(run).items()]
    return [(step, path) for step, path, digest in found if digest and (step, digest) not in done]


def _score(
    run: Path,
    step: int,
    save: Path,
    evaluate: Callable[[Path, Path], dict[str, TaskScore]],
    output: Path,
    say: Callable[[str], None],
) -> int:
    digest = _digest(save)
    if digest is None:
        return 0
    try:
        scores = evaluate(save, output / f"{save.name}-{digest.rpartition(':')[2][:8]}")
    except (OctoError, OSError) as error:
        if save.is_dir() and _digest(save) == digest:
            raise
        say(f"step {step}: the save was removed while it was scored: {error}")  # keep_last
        return 0
    for name, score in scores.items():
        found = score.scores[1]
        line = ScoreLine(step=step, save=digest, task=name, value=found.value, low=found.low, high=found.high)
        append_score(run, line)
    mean = sum(score.scores[1].value for score in scores.values()) / len(scores)
    say(f"step {step}: pass@1 {mean:.1f} % over {len(scores)} tasks")
    return 1
