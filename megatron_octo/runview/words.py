"""A run in words: what both the terminal and the page say."""

import time
from dataclasses import dataclass

from megatron_octo.runfiles.attempts import Attempt
from megatron_octo.runview.charts import number
from megatron_octo.runview.load import RunView

RECENT = 100  # steps that "now" means


def duration(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def moment(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"


def state(run: RunView) -> str:
    """The state in one sentence."""
    done = f"step {run.step:,} of {run.steps:,} ({run.step / run.steps:.1%})"
    if run.status == "running":
        return f"running, {done}; {run.owner}, last sign of life {run.heartbeat or 0.0:.0f} s ago"
    if run.status == "dead":
        return f"not running, {done}: the last attempt ended without a word (killed, or its node lost)"
    saved = "" if run.saved is None else f", step {run.saved:,} is saved"
    return f"{run.status}, {done}{saved}; last change {moment(run.updated)}"


def model(run: RunView) -> str:
    recipe = run.recipe
    shape, parallel = recipe["model"], recipe.get("parallel", {})
    return (
        f"{shape.get('architecture', 'gpt_bigcode')}, {shape['num_layers']} layers of {shape['hidden_size']}; "
        f"{recipe['batch']['global_size']} rows of {recipe['data']['seq_length']:,} tokens a step; "
        f"tensor {parallel.get('tensor', 1)} x pipeline {parallel.get('pipeline', 1)}"
    )


@dataclass(frozen=True)
class Figure:
    """A number with its name, as a line or a card."""

    name: str
    value: str


def figures(run: RunView) -> list[Figure]:
    """What one wants to know first; medians over the last steps."""
    if not len(run.curves):
        return []
    now = run.curves.last(RECENT)
    last = run.curves.last(1)
    found = [
        Figure("loss", f"{now.median('loss'):.4f}"),
        Figure("gradient norm", f"{now.median('grad_norm'):.3f}"),
        Figure("learning rate", f"{last.median('lr'):.2e}"),
        Figure("tokens/s", f"{now.median('tokens_per_s'):,.0f}"),
        Figure("a step", f"{now.median('step_s'):.3g} s"),
        Figure("TFLOP/s a rank", f"{now.median('tflops_per_gpu'):.3g}"),
    ]
    if now.has("mfu"):
        found.append(Figure("MFU", f"{now.median('mfu'):.1%}"))
    if now.has("memory_gib"):
        found.append(Figure("GPU memory", f"{float(run.curves.columns['memory_gib'][-1]):.1f} GiB"))
    found.append(Figure("row fill", f"{now.median('fill'):.2%}"))
    if now.median("step_s") > 0:
        found.append(Figure("waiting for data", f"{now.median('data_s') / now.median('step_s'):.2%}"))
    found.append(
        Figure("tokens", f"{number(run.step * run.positions)} of {number(run.steps * run.positions)}")
    )
    for name, (steps, losses) in run.validation.items():
        found.append(Figure(f"{name} loss", f"{losses[-1]:.4f} at step {steps[-1]:,.0f}"))
    if (left := run.left_seconds) is not None:
        words = duration(left) + (
            f", {moment(time.time() + left)}" if run.status == "running" else " of training"
        )
        found.append(Figure("left", words))
    return found


def is_alive(run: RunView, attempt: Attempt) -> bool:
    return attempt.ended is None and run.owner is not None and run.owner.attempt == attempt.number


def end_of(run: RunView, attempt: Attempt) -> tuple[str, str]:
    """How an attempt ended, and what it had to say about it."""
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
    """By the attempt's record, else by its last line among the metrics."""
    if attempt.last_step is not None:
        return attempt.last_step
    mine = run.curves.steps[run.curves.columns["attempt"] == attempt.number]
    return int(mine[-1]) if len(mine) else None


def end_time(run: RunView, attempt: Attempt) -> float:
    """When it ended; of one that was killed, when it last wrote into its log."""
    if attempt.ended:
        return attempt.ended
    if is_alive(run, attempt):
        return time.time()
    try:
        written = (run.path / "logs" / f"attempt-{attempt.number:03d}.log").stat().st_mtime
    except FileNotFoundError:
        written = 0.0
    return max(attempt.started, written)
