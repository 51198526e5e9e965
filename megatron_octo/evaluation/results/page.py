"""Scores as one HTML file without scripts and without references to other files."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_octo.common.files import atomic_write
from megatron_octo.common.quoting import markup
from megatron_octo.evaluation.benchmark.tasks import TITLES
from megatron_octo.evaluation.results import published
from megatron_octo.evaluation.results.comparison import Compared
from megatron_octo.evaluation.results.failures import Failing, Problem, Prompts, failures
from megatron_octo.evaluation.results.markdown import (
    cuts_words,
    method_words,
    paper_words,
    percent,
    settings_lines,
    signed,
)
from megatron_octo.evaluation.results.numbers import ranges
from megatron_octo.evaluation.results.summary import Estimate, Summary, TaskScore

BUDGET = 48 << 20  # bytes of programs and outputs on one page; browsers get slow beyond
_DETAIL, _PROMPT, _PROGRAM = 2000, 6000, 12_000  # characters of each text
_STYLE = """
:root { color-scheme:light dark; --ink:#1c2024; --soft:#60646c; --line:#e4e6ea; --paper:#fff; --back:#f6f7f9;
  --bar:#2f6fde; --band:#9fc0f7; --good:#1d7f59; --bad:#c23338; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaed; --soft:#9aa0a8; --line:#30353c; --paper:#1b1e23;
  --back:#121417; --bar:#6ea3ff; --band:#2c4878; --good:#57c797; --bad:#f0787c; } }
body { margin:0; background:var(--back); color:var(--ink); font:14px/1.5 system-ui, sans-serif; }
main { max-width:1200px; margin:0 auto; padding:20px; }
h1 { font-size:22px; margin:0; } h2 { font-size:15px; margin:0 0 6px; }
p { margin:4px 0; color:var(--soft); max-width:100ch; }
section { background:var(--paper); border:1px solid var(--line); border-radius:8px; padding:10px 12px; margin-top:12px;
  overflow-x:auto; }
table { border-collapse:collapse; width:100%; } th, td { text-align:left; padding:4px 10px 4px 0;
  border-bottom:1px solid var(--line); vertical-align:top; white-space:nowrap; }
th { color:var(--soft); font-weight:500; } td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; }
td.wide { white-space:normal; } td.good { color:var(--good); } td.bad { color:var(--bad); }
svg { display:block; width:160px; height:14px; } .bar { fill:var(--bar); } .band { fill:var(--band); }
.back { fill:var(--line); }
summary { cursor:pointer; } details { margin:2px 0; content-visibility:auto; contain-intrinsic-size:auto 24px; }
details details { margin-left:16px; } .of { color:var(--soft); }
pre { margin:4px 0 8px; padding:8px; background:var(--back); border:1px solid var(--line); border-radius:6px;
  font:12px/1.45 ui-monospace, monospace; overflow:auto; max-height:480px; white-space:pre-wrap;
  overflow-wrap:anywhere; }
h3 { font-size:12px; margin:4px 0 0 16px; color:var(--soft); font-weight:500; }
"""
_HEADS = (
    "passed",
    "wrong",
    "exception",
    "compile_error",
    "cpu_limit",
    "wall_limit",
    "memory",
    "output_limit",
    "tampered",
)


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, nothing runs, one style sheet."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def write_page(
    path: Path,
    summary: Summary,
    prompts: Prompts,
    compared: Sequence[Compared] = (),
    unlike: Sequence[str] = (),
    title: str = "HumanEvalPack",
) -> None:
    """Write the page.

    Args:
        path: of the file.
        summary: the evaluation.
        prompts: of its samples.
        compared: differences to another evaluation.
        unlike: what else differs between the two.
        title: of the page.
    """
    with atomic_write(path, "w") as file:
        for part in _parts(summary, prompts, compared, unlike, title):
            file.write(part.encode(errors="replace").decode())
            file.write("\n")


def _parts(
    summary: Summary, prompts: Prompts, compared: Sequence[Compared], unlike: Sequence[str], title: str
) -> Iterator[str]:
    name = markup(title)
    yield (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{markup(policy())}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<style>{_STYLE}</style></head><body><main><h1>{name}</h1><p>{markup(method_words(summary))}</p>"
    )
    yield _section("Scores", _scores(summary))
    if summary.means:
        yield _section("Means over languages", _means(summary))
    if compared:
        yield _section("Difference of two runs, second minus first", _differences(compared, unlike))
    yield _section("How samples ended", _kinds(summary))
    yield from _failing(summary, prompts)
    lines = markup("\n".join(settings_lines(summary)))
    yield f"<section><details><summary>Settings</summary><pre>{lines}</pre></details></section></main></body></html>"


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{markup(title)}</h2>{inner}</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th{' class="n"' if name[:1] == ' ' else ''}>{markup(name.strip())}</th>" for name in head)
    return f"<table><tr>{names}</tr>{''.join(f'<tr>{"".join(row)}</tr>' for row in rows)}</table>"


def _cell(text: object, kind: str = "") -> str:
    return f"<td{f' class="{kind}"' if kind else ''}>{markup(text)}</td>"


def _bar(estimate: Estimate) -> str:
    """Draw a score with its interval, on a scale from 0 to 100 %."""
    low, high = 160 * estimate.interval.low, 160 * estimate.interval.high
    return (
        '<td><svg viewBox="0 0 160 14" role="img"><rect class="back" y="3" width="160" height="8"/>'
        f'<rect class="bar" y="3" width="{160 * estimate.value:.1f}" height="8"/>'
        f'<rect class="band" x="{low:.1f}" y="6" width="{max(high - low, 1):.1f}" height="2"/></svg></td>'
    )


def _scores(summary: Summary) -> str:
    ks = sorted({k for score in summary.tasks for k in score.estimates})
    head = ["task", "language", " problems", " samples", *(f" pass@{k}, %" for k in ks), "", "published, %", "missing"]
    rows = [
        [
            _cell(score.task.scenario),
            _cell(TITLES[score.task.language]),
            _cell(len(score.counts), "n"),
            _cell(f"{score.samples:,}", "n"),
            *(_cell(percent(score.estimates.get(k)), "n") for k in ks),
            _bar(score.estimates[min(ks)]),
            _cell(paper_words(score.task.scenario, score.task.language)),
            _cell(ranges(score.missing) or "-"),
        ]
        for score in summary.tasks
    ]
    return f"{_table(head, rows)}<p>{markup(f'Published: {published.SETTINGS}; {published.SOURCE}.')}</p>"


def _means(summary: Summary) -> str:
    rows = []
    for mean in summary.means:
        complete = len(mean.languages) == len(published.PUBLISHED_LANGUAGES)
        paper = paper_words(mean.scenario, None, most=9) if complete else "-"
        rows.append(
            [
                _cell(mean.scenario),
                _cell(", ".join(TITLES[language] for language in mean.languages)),
                _cell(percent(mean.estimate), "n"),
                _bar(mean.estimate),
                _cell(paper, "wide"),
            ]
        )
    return _table(["scenario", "languages", " pass@1, %", "", "published, %"], rows)


def _differences(compared: Sequence[Compared], unlike: Sequence[str]) -> str:
    rows = []
    for each in compared:
        found = each.difference
        kind = ("good" if found.value > 0 else "bad") if found.certain else ""
        rows.append(
            [
                _cell(each.task.name),
                _cell(f"{100 * each.first:.1f}", "n"),
                _cell(f"{100 * each.second:.1f}", "n"),
                _cell(signed(found), f"n {kind}"),
                _cell(found.better, "n"),
                _cell(found.worse, "n"),
                _cell(found.problems, "n"),
            ]
        )
    head = ["task", " first, %", " second, %", " difference, points", " better", " worse", " problems"]
    words = "Coloured where the interval of 95 % (paired bootstrap over problems) excludes zero."
    lines = "".join(f"<li>{markup(line)}</li>" for line in unlike)
    also = f"<p>They also differ in:</p><ul>{lines}</ul>" if lines else ""
    return f"{_table(head, rows)}<p>{words}</p>{also}"


def _kinds(summary: Summary) -> str:
    shown = [kind for kind in _HEADS if any(kind in score.kinds for score in summary.tasks)]
    head = ["task", *(f" {kind.replace('_', ' ')}" for kind in shown), "answers cut", " CPU s"]
    rows = [
        [
            _cell(score.task.name),
            *(_cell(f"{score.kinds.get(kind, 0):,}", "n") for kind in shown),
            _cell(cuts_words(score), "wide"),
            _cell(f"{score.cpu_s:.1f}", "n"),
        ]
        for score in summary.tasks
    ]
    return _table(head, rows)


def _failing(summary: Summary, prompts: Prompts) -> Iterator[str]:
    left = BUDGET
    for score in summary.tasks:
        problems = failures(summary, score.task)
        if not problems:
            continue
        failed = score.samples - score.kinds.get("passed", 0)
        yield (
            f"<section><details><summary><b>{markup(score.task.name)}</b> "
            f'<span class="of">{failed:,} samples of {len(problems)} problems did not pass</span></summary>'
        )
        for problem in problems:
            text = _problem(score, problem, prompts)
            left -= len(text)
            if left < 0:
                yield f"<p>The rest is in {markup(f'{summary.output}/verdicts/{score.task.name}.jsonl')}</p>"
                break
            yield text
        yield "</details></section>"


def _problem(score: TaskScore, problem: Problem, prompts: Prompts) -> str:
    first = problem.failing[0].judged
    prompt = prompts.text(score.task, problem.number, first.sample)
    shown = _pre(prompt, _PROMPT) if prompt is not None else f"<p>{markup(prompts.problem)}</p>"
    inner = "".join(_program(each) for each in problem.failing)
    return (
        f"<details><summary>Problem {problem.number} "
        f'<span class="of">{problem.passed} of {problem.total} passed</span></summary>'
        f"<details><summary>Prompt</summary>{shown}</details>{inner}</details>"
    )


def _program(failing: Failing) -> str:
    judged = failing.judged
    verdict = judged.verdict
    times = f"{verdict.compile_cpu_s:.2f} + {verdict.run_cpu_s:.2f} CPU s, level {verdict.level}, cut: {judged.cut}"
    which = f"sample{'s' * (len(failing.samples) > 1)} {ranges(failing.samples)}"
    output = f"<h3>Output</h3>{_pre(verdict.detail, _DETAIL)}" if verdict.detail else ""
    return (
        f"<details><summary>{markup(verdict.kind.value.replace('_', ' '))} "
        f'<span class="of">{markup(which)}; {markup(times)}</span></summary>'
        f"<h3>Program</h3>{_pre(judged.solution, _PROGRAM)}{output}</details>"
    )


def _pre(text: str, most: int) -> str:
    more = f"\n... {len(text) - most:,} more characters" if len(text) > most else ""
    return f"<pre>{markup(text[:most] + more)}</pre>"
