"""Scores as one HTML page without network: tables, and every failing sample to look at."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.common.quoting import markup
from megatron_octo.common.terminal import printable
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.tasks import TITLES
from megatron_octo.evaluation.records import LANGUAGES, Kind
from megatron_octo.evaluation.results import markdown as text
from megatron_octo.evaluation.results.difference import Difference
from megatron_octo.evaluation.results.published import SOURCE
from megatron_octo.evaluation.results.summary import TaskScore

SHOWN = 200  # failing samples per task
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --mark: #2a6; --bad: #c43; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: 13px; border-radius: 4px;
  max-height: 28rem; }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; } summary { cursor: pointer; }
.kind { color: var(--bad); }
"""


def page(
    output: Path,
    scores: Mapping[str, TaskScore],
    header: Mapping[str, Any],
    differences: Sequence[Difference] = (),
) -> str:
    """Return the page of an evaluation.

    Args:
        output: its directory, for samples and verdicts.
        scores: of its tasks.
        header: of its directory.
        differences: to another one.
    """
    head = ("scenario", *(TITLES[language] for language in LANGUAGES), "mean")
    parts = ["<h1>HumanEvalPack</h1>"]
    for k in sorted({k for score in scores.values() for k in score.scores}):
        parts += [
            f"<h2>pass@{k}, per cent (95 % interval over problems)</h2>",
            _table(head, text.score_rows(scores, k)),
        ]
    if differences:
        parts += ["<h2>Difference of two evaluations</h2>"]
        parts += [_table(text.DIFFERENCE_HEAD, text.difference_rows(differences))]
    kinds, rows = text.kind_rows(scores)
    parts += ["<h2>How samples ended</h2>", _table(("task", *kinds), rows)]
    parts += [f"<h2>Published</h2><p>{markup(SOURCE)}</p>", _table(text.PUBLISHED_HEAD, text.published_rows())]
    parts += ["<h2>Samples that did not pass</h2>"]
    for name in scores:
        parts += _failing(output, name)
    parts += ["<h2>Conditions</h2>", _table(("key", "value"), text.conditions(header))]
    body = "\n".join(parts)
    # No script, no network: what a model wrote is text.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>HumanEvalPack</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{markup(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{markup(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{top}</tr>\n" + "\n".join(lines) + "</table>"


def _failing(output: Path, name: str) -> list[str]:
    """Return the failing samples of a task: answer, verdict, output."""
    samples = records.read_samples(output, name)
    failing = [
        scored
        for _, scored in sorted(records.read_verdicts(output, name).items())
        if scored.verdict.kind is not Kind.PASSED
    ]
    parts = [f"<h3>{markup(name)}: {len(failing):,}</h3>"] if failing else []
    for scored in failing[:SHOWN]:
        sample = samples.get((scored.problem, scored.sample))
        answer = printable(sample.text, keep="\n\t") if sample else "(the sample is not in this directory)"
        kind = scored.verdict.kind.replace("_", " ")
        label = f"problem {scored.problem}, sample {scored.sample}"
        parts.append(
            f'<details><summary>{label}: <span class="kind">{markup(kind)}</span> '
            f"(cut: {markup(scored.cut)})</summary>"
            f"<pre>{markup(answer)}</pre><pre>{markup(printable(scored.verdict.detail, keep=chr(10)))}</pre></details>"
        )
    if len(failing) > SHOWN:
        parts.append(f"<p>{len(failing) - SHOWN:,} more in {markup(records.VERDICTS)}/{markup(name)}.jsonl</p>")
    return parts
