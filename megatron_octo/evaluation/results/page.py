"""Scores as one HTML page without scripts and without network: tables, and every failing sample to look at."""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.common.quoting import markup
from megatron_octo.common.terminal import printable
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.tasks import TITLES
from megatron_octo.evaluation.records import LANGUAGES
from megatron_octo.evaluation.results import markdown as text
from megatron_octo.evaluation.results.difference import Difference
from megatron_octo.evaluation.results.failures import Failing, Problem, Prompts, failures
from megatron_octo.evaluation.results.published import SOURCE
from megatron_octo.evaluation.results.summary import TaskScore

BUDGET = 48 << 20  # characters of failing samples on one page; browsers get slow beyond
_PROMPT, _PROGRAM, _OUTPUT = 6000, 12_000, 2000  # characters of each text
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --mark: #2a6; --bad: #c43; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
pre { background: var(--soft); padding: .6rem; overflow: auto; font-size: 13px; border-radius: 4px;
  max-height: 28rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; content-visibility: auto;
  contain-intrinsic-size: auto 2rem; } details details { margin-left: 1rem; }
summary { cursor: pointer; } h4 { margin: .3rem 0 0; font-size: 13px; font-weight: 500; }
.kind { color: var(--bad); } .of { opacity: .7; }
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, nothing runs, one style sheet counts."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def page(
    output: Path,
    scores: Mapping[str, TaskScore],
    header: Mapping[str, Any],
    differences: Sequence[Difference] = (),
    data: str | None = None,
) -> Iterator[str]:
    """Yield the parts of an evaluation's page.

    Args:
        output: its directory, for samples and verdicts.
        scores: of its tasks.
        header: of its directory.
        differences: to another one.
        data: where the benchmark's rows are, for the prompts.
    """
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{markup(policy())}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>HumanEvalPack</title><style>{_STYLE}</style></head>\n<body>\n<h1>HumanEvalPack</h1>\n"
    )
    head = ("scenario", *(TITLES[language] for language in LANGUAGES), "mean")
    for k in sorted({k for score in scores.values() for k in score.scores}):
        yield f"<h2>pass@{k}, per cent (95 % interval over problems)</h2>\n"
        yield _table(head, text.score_rows(scores, k))
    if differences:
        yield "<h2>Difference of two evaluations</h2>\n"
        yield _table(text.DIFFERENCE_HEAD, text.difference_rows(differences))
    kinds, rows = text.kind_rows(scores)
    yield f"<h2>How samples ended</h2>\n{_table(('task', *kinds), rows)}"
    yield f"<h2>Published</h2>\n<p>{markup(SOURCE)}</p>\n{_table(text.PUBLISHED_HEAD, text.published_rows())}"
    yield "<h2>Samples that did not pass</h2>\n"
    yield from _failing(output, scores, Prompts(output, header, data))
    yield f"<h2>Conditions</h2>\n{_table(('key', 'value'), text.conditions(header))}</body></html>\n"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{markup(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{markup(printable(cell))}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table><tr>{top}</tr>\n" + "\n".join(lines) + "</table>\n"


def _failing(output: Path, scores: Mapping[str, TaskScore], prompts: Prompts) -> Iterator[str]:
    """Yield tasks, in them problems, in them programs: all of them folded."""
    left = BUDGET
    for name, score in scores.items():
        problems = failures(output, score.task)
        if not problems:
            continue
        count = sum(problem.total - problem.passed for problem in problems)
        yield (
            f"<details><summary><b>{markup(name)}</b> "
            f'<span class="of">{count:,} samples of {len(problems):,} problems</span></summary>\n'
        )
        for problem in problems:
            made = _problem(score, problem, prompts)
            left -= len(made)
            if left < 0:
                yield f"<p>The rest is in {markup(records.VERDICTS)}/{markup(name)}.jsonl</p>\n"
                break
            yield made
        yield "</details>\n"


def _problem(score: TaskScore, problem: Problem, prompts: Prompts) -> str:
    prompt = prompts.text(score.task, problem.number, problem.failing[0].samples[0])
    shown = f"<p>{markup(prompts.problem)}</p>" if prompt is None else _pre(prompt, _PROMPT)
    return (
        f"<details><summary>problem {problem.number} "
        f'<span class="of">{problem.passed} of {problem.total} passed</span></summary>\n'
        f"<details><summary>prompt</summary>{shown}</details>\n"
        f"{''.join(map(_program, problem.failing))}</details>\n"
    )


def _program(failing: Failing) -> str:
    scored, verdict = failing.scored, failing.scored.verdict
    numbers = ", ".join(map(str, failing.samples))
    seconds = f"{verdict.compile_cpu_s:.2f} + {verdict.run_cpu_s:.2f} CPU s"
    words = f"sample {numbers}; {seconds}; level {verdict.level}; cut: {scored.cut}"
    printed = f"<h4>output</h4>{_pre(verdict.detail, _OUTPUT)}" if verdict.detail else ""
    return (
        f'<details><summary><span class="kind">{markup(verdict.kind.replace("_", " "))}</span> '
        f'<span class="of">{markup(words)}</span></summary>\n'
        f"<h4>program</h4>{_pre(scored.solution, _PROGRAM)}{printed}</details>\n"
    )


def _pre(content: str, most: int) -> str:
    more = f"\n... {len(content) - most:,} more characters" if len(content) > most else ""
    return f"<pre>{markup(content[:most] + more)}</pre>"
