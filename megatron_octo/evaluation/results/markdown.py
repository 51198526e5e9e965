"""Scores as Markdown: tables that read well as plain text, too."""

from collections.abc import Sequence

from megatron_octo.common.terminal import printable
from megatron_octo.evaluation.benchmark.tasks import TITLES
from megatron_octo.evaluation.results import published
from megatron_octo.evaluation.results.comparison import Compared
from megatron_octo.evaluation.results.difference import Difference
from megatron_octo.evaluation.results.numbers import ranges
from megatron_octo.evaluation.results.summary import Estimate, Summary, TaskScore


def percent(estimate: Estimate | None) -> str:
    """Return an estimate as ``46.2 (39.1 to 53.4)``, in per cent."""
    if estimate is None:
        return "-"
    bounds = estimate.interval
    if bounds.method == "none":
        return f"{100 * estimate.value:.1f}"
    return f"{100 * estimate.value:.1f} ({100 * bounds.low:.1f} to {100 * bounds.high:.1f})"


def signed(found: Difference) -> str:
    """Return a difference as ``+1.2 (-0.3 to +2.7)``, in percentage points."""
    low, high = found.interval.low, found.interval.high
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def kinds_words(score: TaskScore) -> str:
    """Return how the samples ended that did not pass: ``wrong 12, exception 3``."""
    rest = {kind: count for kind, count in score.kinds.items() if kind != "passed"}
    return ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in rest.items()) or "-"


def cuts_words(score: TaskScore) -> str:
    """Return what cutting did to the answers: ``syntax 12, fence 3``."""
    return ", ".join(f"{cut} {count}" for cut, count in score.cuts.items() if cut != "none") or "-"


def paper_words(scenario: str, language: str | None, most: int = 3) -> str:
    """Return the best published scores of a task: ``GPT-4 86.6, ...``."""
    return ", ".join(f"{each.model} {each.score:.1f}" for each in published.published(scenario, language)[:most]) or "-"


def settings_lines(summary: Summary) -> list[str]:
    """Return the header as ``key: value`` lines, nested keys joined by dots."""
    found: list[str] = []

    def walk(value: object, prefix: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{prefix}.{name}" if prefix else str(name))
        else:
            found.append(f"{prefix}: {printable(value)}")

    walk(summary.header, "")
    return found


def method_words(summary: Summary) -> str:
    """Return how to read the numbers."""
    forged = sum(score.levels.get(1, 0) for score in summary.tasks)
    total = sum(score.samples for score in summary.tasks)
    return (
        "Scores are the unbiased estimate of pass@k in per cent, with intervals of 95 % over problems: bootstrap with "
        "10,000 resamples, or Wilson's where each problem has one sample. "
        f"{total - forged:,} of {total:,} verdicts are of level 2, which a program cannot forge; those of level 1 need "
        "a program that is written against this harness."
    )


def to_markdown(summary: Summary, compared: Sequence[Compared] = (), unlike: Sequence[str] = ()) -> str:
    """Return the report as Markdown."""
    parts = ["# HumanEvalPack", method_words(summary), _scores(summary)]
    if summary.means:
        rows = [
            [
                mean.scenario,
                ", ".join(mean.languages),
                percent(mean.estimate),
                _mean_paper(mean.scenario, mean.languages),
            ]
            for mean in summary.means
        ]
        parts += ["## Means over languages", table(["scenario", "languages", "pass@1", "published"], rows)]
    parts += [f"Published: {published.SETTINGS}; {published.SOURCE}."]
    ends = [[score.task.name, kinds_words(score), cuts_words(score), f"{score.cpu_s:.1f}"] for score in summary.tasks]
    parts += ["## How samples ended", table(["task", "not passed", "answers cut", "CPU s"], ends)]
    gaps = [f"- {score.task.name}: {ranges(score.missing)}" for score in summary.tasks if score.missing]
    if gaps:
        parts += ["## Problems without a verdict", "\n".join(gaps)]
    if compared:
        parts += ["## Difference of two runs, second minus first", differences_table(compared)]
        if unlike:
            parts += ["They also differ in:", "\n".join(f"- {_cell(line)}" for line in unlike)]
    parts += ["## Settings", "\n".join(f"    {line}" for line in settings_lines(summary))]
    return "\n\n".join(parts) + "\n"


def differences_table(compared: Sequence[Compared]) -> str:
    """Return the table of differences."""
    rows = [
        [
            each.task.name,
            f"{100 * each.first:.1f}",
            f"{100 * each.second:.1f}",
            signed(each.difference),
            "yes" if each.difference.certain else "no",
            f"{each.difference.better}/{each.difference.worse} of {each.difference.problems}",
        ]
        for each in compared
    ]
    return table(["task", "first", "second", "difference", "zero excluded", "better/worse"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose columns are aligned in plain text."""
    cells = [[_cell(cell) for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[place]) for row in cells)) for place in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _scores(summary: Summary) -> str:
    ks = sorted({k for score in summary.tasks for k in score.estimates})
    head = ["task", "language", "problems", "samples", *(f"pass@{k}" for k in ks), "published"]
    rows = [
        [
            score.task.scenario,
            TITLES[score.task.language],
            str(len(score.counts)),
            str(score.samples),
            *(percent(score.estimates.get(k)) for k in ks),
            paper_words(score.task.scenario, score.task.language),
        ]
        for score in summary.tasks
    ]
    return table(head, rows)


def _mean_paper(scenario: str, languages: Sequence[str]) -> str:
    return paper_words(scenario, None) if len(languages) == len(published.PUBLISHED_LANGUAGES) else "-"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|").replace("<", "&lt;")
