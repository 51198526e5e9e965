"""A run in words, for the terminal and the page."""

import time
from dataclasses import dataclass

import numpy as np

from megatron_octo.common.durations import duration, moment
from megatron_octo.runfiles.attempts import Attempt
from megatron_octo.runview.charts import number
from megatron_octo.runview.load import RunView

RECENT = 100  # steps that figures are medians of


def state(run: RunView) -> str:
    """Return the state in one sentence."""
    done = f"step {run.step:,} of {run.steps:,} ({run.step / run.steps:.1%})"
    if run.status == "running":
        return f"running, {done}; {run.owner}, last sign of life {run.heartbeat or 0.0:.0f} s ago"
    if run.status == "dead":
        return f"not running, {done}: the last attempt left no record of its end (killed, or its node lost)"
    saved = "" if run.saved is None else f", step {run.saved:,} is saved"
    return f"{run.status}, {done}{saved}; last change {moment(run.updated)}"


def model(run: RunView) -> str:
    """Return architecture, batch and layout in one line."""
    model, parallel = run.shape.model, run.shape.parallel
    return (
        f"{model.architecture}, {model.num_layers} layers of {model.hidden_size}; "
        f"{run.shape.batch.global_size} rows of {run.shape.data.seq_length:,} tokens per step; "
        f"tensor {parallel.tensor} x pipeline {parallel.pipeline}"
    )


@dataclass(frozen=True)
class Figure:
    """A number with its name, as a line or a card."""

    name: str
    value: str


def figures(run: RunView) -> list[Figure]:
    """Return the most important figures; medians over the last steps."""
    if not len(run.curves):
        return []
    now = run.curves.last(RECENT)
    last = run.curves.last(1)
    found = [
        Figure("loss", f"{now.median('loss'):.4f}"),
        Figure("gradient norm", f"{now.median('grad_norm'):.3f}"),
        Figure("learning rate", f"{last.median('lr'):.2e}"),
        Figure("tokens/s", f"{now.median('tokens_per_s'):,.0f}"),
        Figure("time per step", f"{now.median('step_s'):.3g} s"),
        Figure("TFLOP/s per rank", f"{now.median('tflops_per_gpu'):.3g}"),
    ]
    if now.has("mfu"):
        found.append(Figure("MFU", f"{now.median('mfu'):.1%}"))
    if now.has("memory_gib"):
        found.append(Figure("GPU memory", f"{float(run.curves.columns['memory_gib'][-1]):.1f} GiB"))
    found.append(Figure("row fill", f"{now.median('fill'):.2%}"))
    if now.median("step_s") > 0:
        found.append(Figure("waiting for data", f"{now.median('data_s') / now.median('step_s'):.2%}"))
    found.append(Figure("tokens", f"{number(run.step * run.positions)} of {number(run.steps * run.positions)}"))
    for name, (steps, losses) in run.validation.items():
        found.append(Figure(f"{name} loss", f"{losses[-1]:.4f} at step {steps[-1]:,.0f}"))
    if (left := run.left_seconds) is not None:
        words = duration(left) + (f", {moment(time.time() + left)}" if run.status == "running" else " of training")
        found.append(Figure("left", words))
    return found


def is_alive(run: RunView, attempt: Attempt) -> bool:
    """Return whether an attempt is the one that trains now."""
    return attempt.ended is None and run.owner is not None and run.owner.attempt == attempt.number


def end_of(run: RunView, attempt: Attempt) -> tuple[str, str]:
    """Return how an attempt ended, and the details of its records."""
    if attempt.reason:
        detail = attempt.detail or ""
        if not detail:
            told = [error for error in run.errors if error.attempt == attempt.number and error.culprit]
            detail = f"rank {told[0].rank} ({told[0].host}): {told[0].what}" if told else ""
        code = "" if attempt.exit_code is None else f" ({attempt.exit_code})"
        return attempt.reason + code, detail
    if is_alive(run, attempt):
        return "running", ""
    if attempt == run.attempts[-1] and run.status in ("finished", "stopped"):
        return run.status, ""
    return "killed", "no record of an end: all ranks were killed at once, or the node was lost"


def last_step(run: RunView, attempt: Attempt) -> int | None:
    """Return the last step by the attempt's record, else by its last line among the metrics."""
    if attempt.last_step is not None:
        return attempt.last_step
    mine = run.curves.steps[run.curves.columns["attempt"] == attempt.number]
    return int(mine[-1]) if len(mine) else None


def end_time(run: RunView, attempt: Attempt) -> float:
    """Return when an attempt ended; for one that was killed the time up to which its records show work."""
    if attempt.ended:
        return attempt.ended
    if is_alive(run, attempt):
        return time.time()
    mine = run.curves.columns["attempt"] == attempt.number
    worked = float(np.nansum(run.curves.columns["step_s"][mine]))
    errors = [error.time for error in run.errors if error.attempt == attempt.number]
    return max([attempt.started + worked, *errors])
