"""Scores as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megatron_octo.evaluation.benchmark.tasks import SCENARIOS, TITLES
from megatron_octo.evaluation.records import LANGUAGES
from megatron_octo.evaluation.results.difference import Difference
from megatron_octo.evaluation.results.pass_at_k import Interval
from megatron_octo.evaluation.results.published import LANGUAGE_SCORES, PUBLISHED, SOURCE
from megatron_octo.evaluation.results.published import SCENARIOS as PUBLISHED_SCENARIOS
from megatron_octo.evaluation.results.summary import TaskScore, mean_of


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def score_rows(scores: Mapping[str, TaskScore], k: int) -> list[list[str]]:
    """Return a row per scenario: its name, a cell per language, and the mean of all six where there are six."""
    rows = []
    for scenario in SCENARIOS:
        cells, values = [], []
        for language in LANGUAGES:
            score = scores.get(f"humaneval{scenario}-{language}")
            found = score.scores.get(k) if score else None
            cells.append(_estimate(found))
            values += [found.value] if found else []
        full = len(values) == len(LANGUAGES)
        if values:
            mean = mean_of([scores[f"humaneval{scenario}-{language}"] for language in LANGUAGES], k) if full else None
            rows.append([scenario, *cells, _estimate(mean)])
    return rows


def _estimate(found: Interval | None) -> str:
    return f"{found.value:.1f} ({found.low:.1f} to {found.high:.1f})" if found else ""


def kind_rows(scores: Mapping[str, TaskScore]) -> tuple[list[str], list[list[str]]]:
    """Return kinds that occur, and a row per task with their numbers."""
    kinds = sorted({kind for score in scores.values() for kind in score.kinds})
    rows = [[name, *(str(score.kinds.get(kind, 0)) for kind in kinds)] for name, score in scores.items()]
    return kinds, rows


def difference_rows(differences: Sequence[Difference]) -> list[list[str]]:
    """Return a row per task: problems, change with interval, and how many were gained and lost."""
    return [
        [
            found.task,
            str(found.problems),
            f"{found.change.value:+.1f} ({found.change.low:+.1f} to {found.change.high:+.1f})",
            "yes" if found.is_clear else "no",
            str(len(found.gained)),
            str(len(found.lost)),
        ]
        for found in differences
    ]


def published_rows() -> list[list[str]]:
    """Return a row per scenario and published model: six languages where they are known, and their mean."""
    rows = []
    for place, scenario in enumerate(PUBLISHED_SCENARIOS):
        for model, means in sorted(PUBLISHED.items(), key=lambda pair: -pair[1][place]):
            known = LANGUAGE_SCORES[scenario].get(model, (None,) * len(LANGUAGES))
            cells = ["" if value is None else f"{value:.1f}" for value in known]
            rows.append([scenario, model, *cells, f"{means[place]:.1f}"])
    return rows


DIFFERENCE_HEAD = ("task", "problems", "second - first, pass@1", "clear", "gained", "lost")
PUBLISHED_HEAD = ("scenario", "model", *(TITLES[language] for language in LANGUAGES), "mean")


def markdown(scores: Mapping[str, TaskScore], header: Mapping[str, Any], differences: Sequence[Difference] = ()) -> str:
    """Return the report of an evaluation.

    Args:
        scores: of its tasks.
        header: of its directory.
        differences: to another one.
    """
    head = ("scenario", *(TITLES[language] for language in LANGUAGES), "mean")
    ks = sorted({k for score in scores.values() for k in score.scores})
    parts = ["# HumanEvalPack", ""]
    for k in ks:
        parts += [f"## pass@{k}, per cent (95 % interval over problems)", "", table(head, score_rows(scores, k)), ""]
    if differences:
        parts += ["## Difference of two evaluations", "", table(DIFFERENCE_HEAD, difference_rows(differences)), ""]
    kinds, rows = kind_rows(scores)
    parts += ["## How samples ended", "", table(("task", *kinds), rows), ""]
    counts = [
        [
            name,
            str(score.problems),
            str(score.samples),
            _counted(score.cuts),
            ", ".join(f"level {level}: {count}" for level, count in sorted(score.levels.items())),
        ]
        for name, score in scores.items()
    ]
    parts += ["## Samples", "", table(("task", "problems", "samples", "cut", "level of verdicts"), counts), ""]
    parts += ["Level 2: the program cannot forge its verdict. Level 1: it could with knowledge of the protocol.", ""]
    parts += [f"## Published ({SOURCE})", "", table(PUBLISHED_HEAD, published_rows()), ""]
    parts += ["## Conditions", "", table(("key", "value"), conditions(header)), ""]
    return "\n".join(parts)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def conditions(header: Mapping[str, Any]) -> list[list[str]]:
    """Return a row per value of the header."""
    return [
        [f"{section}.{key}", str(value)]
        for section, values in header.items()
        if isinstance(values, dict)
        for key, value in values.items()
    ]
