"""Summary of a run on the terminal."""

from rich.console import Console
from rich.markup import escape

from megatron_octo.common.durations import duration, moment
from megatron_octo.common.terminal import printable
from megatron_octo.runview import scores, words
from megatron_octo.runview.load import RunView

_ATTEMPTS, _CHECKPOINTS, _SCORES = 12, 8, 16  # shown; the page has all


def print_run(run: RunView, console: Console) -> bool:
    """Print state, figures, attempts and checkpoints.

    Returns:
        Whether no checkpoint is known to be damaged.
    """
    colour = {"running": "green", "finished": "green", "stopped": "yellow"}.get(run.status, "red")
    console.print(
        f"run {escape(printable(run.path))}: [{colour}]{escape(words.state(run))}[/]",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"  {escape(words.model(run))}", highlight=False, soft_wrap=True)
    figures = words.figures(run)
    if figures:
        console.print(f"medians of the last {min(words.RECENT, len(run.curves))} steps:", highlight=False)
    for figure in figures:
        console.print(escape(printable(f"  {figure.name:<17} {figure.value}")), highlight=False)
    _print_attempts(run, console)
    _print_checkpoints(run, console)
    _print_scores(run, console)
    for problem in run.problems:
        console.print(f"passed over: {escape(printable(problem))}", highlight=False, soft_wrap=True)
    return not any(checkpoint.problem for checkpoint in run.checkpoints)


def _print_attempts(run: RunView, console: Console) -> None:
    if not run.attempts:
        return
    restarts = len(run.attempts) - 1
    console.print(f"{restarts} restart{'' if restarts == 1 else 's'}", highlight=False)
    rows = [("attempt", "started", "lasted", "ranks", "host", "last step", "end")]
    for attempt in run.attempts[-_ATTEMPTS:]:
        step = words.last_step(run, attempt)
        rows.append(
            (
                str(attempt.number),
                moment(attempt.started),
                duration(words.end_time(run, attempt) - attempt.started),
                str(attempt.world),
                attempt.host,
                "-" if step is None else f"{step:,}",
                words.end_of(run, attempt)[0],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        # Lines are not wrapped or cut: a narrow terminal wraps them itself.
        cells = (f"{cell:>{width}}" for cell, width in zip(row[:-1], widths))
        console.print(f"  {escape('  '.join(cells))}  {escape(row[-1])}", highlight=False, soft_wrap=True)
    for attempt in run.attempts[-_ATTEMPTS:]:
        _, detail = words.end_of(run, attempt)
        if detail:
            console.print(f"  attempt {attempt.number}: {escape(detail)}", highlight=False, soft_wrap=True)


def _print_checkpoints(run: RunView, console: Console) -> None:
    total = sum(checkpoint.size for checkpoint in run.checkpoints)
    console.print(f"{len(run.checkpoints)} checkpoints, {total / 1e9:.3g} GB", highlight=False)
    for checkpoint in run.checkpoints[-_CHECKPOINTS:]:
        latest = ", latest" if checkpoint.latest else ""
        problem = f" [red]bad: {escape(checkpoint.problem)}[/]" if checkpoint.problem else ""
        console.print(
            f"  step {checkpoint.step:,}: {checkpoint.size / 1e9:.3g} GB{latest}{problem}",
            highlight=False,
            soft_wrap=True,
        )


def _print_scores(run: RunView, console: Console) -> None:
    found = scores.rows(run.scores)
    if found:
        console.print("pass@1 of saved models [95 % interval]".replace("[", r"\["), highlight=False)
    for row in found[-_SCORES:]:
        text = f"  step {row.step:,}: {row.task} {row.score} ({row.problems} problems, {row.samples} samples)"
        console.print(escape(printable(text)), highlight=False, soft_wrap=True)
