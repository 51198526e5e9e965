"""A run's plots and tables as one HTML file without scripts and without references to other files."""

import time
from pathlib import Path

import numpy as np
import yaml

from megatron_octo.common.durations import duration, moment
from megatron_octo.common.files import atomic_write
from megatron_octo.common.quoting import markup
from megatron_octo.runview import scores, words
from megatron_octo.runview.charts import Array, Bar, Mark, Series, line_chart, timeline
from megatron_octo.runview.load import RunView

_STYLE = """
:root { --ink:#1c2024; --soft:#60646c; --line:#e4e6ea; --paper:#fff; --back:#f6f7f9; --s0:#2f6fde; --s1:#d9702b;
  --s2:#2a9d6f; --s3:#9a56c4; --good:#2a9d6f; --stopped:#d9a52b; --bad:#d2454a; }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaed; --soft:#9aa0a8; --line:#30353c; --paper:#1b1e23;
  --back:#121417; --s0:#6ea3ff; --s1:#f09a5c; --s2:#57c797; --s3:#c08be6; } }
body { margin:0; background:var(--back); color:var(--ink); font:14px/1.5 system-ui, sans-serif; }
main { max-width:1200px; margin:0 auto; padding:20px; }
h1 { font-size:22px; margin:0; overflow-wrap:anywhere; } h2 { font-size:15px; margin:0 0 6px; }
p { margin:4px 0; color:var(--soft); } .state { color:var(--ink); }
.state::before { content:""; display:inline-block; width:10px; height:10px; border-radius:50%; margin-right:8px;
  background:var(--bad); } .state.running::before, .state.finished::before { background:var(--good); }
.state.stopped::before { background:var(--stopped); }
.cards { display:grid; grid-template-columns:repeat(auto-fill,minmax(150px,1fr)); gap:10px; margin:16px 0; }
.card, figure, section { background:var(--paper); border:1px solid var(--line); border-radius:8px; padding:10px 12px; }
.card b { display:block; font-size:16px; font-weight:600; } .card span { color:var(--soft); font-size:12px; }
.plots { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr)); gap:12px; }
figure { margin:0; } section { margin-top:12px; overflow-x:auto; } svg { display:block; width:100%; height:auto; }
table { border-collapse:collapse; width:100%; } th, td { text-align:left; padding:4px 10px 4px 0;
  border-bottom:1px solid var(--line); vertical-align:top; white-space:nowrap; }
td.wide { white-space:normal; } th { color:var(--soft); font-weight:500; }
td.n, th.n { text-align:right; font-variant-numeric:tabular-nums; }
pre { overflow-x:auto; font-size:12px; } summary { cursor:pointer; font-weight:600; }
.grid { stroke:var(--line); } .axis { stroke:var(--soft); } .tick { fill:var(--soft); font-size:11px; }
.tick.y { text-anchor:end; } .tick.x { text-anchor:middle; } .legend { font-size:12px; }
.legend.right { text-anchor:end; }
.line { fill:none; stroke-width:1.6; stroke-linejoin:round; } .band { opacity:.22; stroke:none; }
.mark { stroke:var(--bad); stroke-dasharray:3 3; stroke-width:1.2; }
.line.s0 { stroke:var(--s0); } .line.s1 { stroke:var(--s1); } .line.s2 { stroke:var(--s2); }
.line.s3 { stroke:var(--s3); }
.band.s0, .dot.s0, .legend.s0 { fill:var(--s0); } .band.s1, .dot.s1, .legend.s1 { fill:var(--s1); }
.band.s2, .dot.s2, .legend.s2 { fill:var(--s2); } .band.s3, .dot.s3, .legend.s3 { fill:var(--s3); }
.bar.good { fill:var(--good); } .bar.stopped { fill:var(--stopped); } .bar.bad { fill:var(--bad); }
"""


def _cell(value: object, kind: str = "") -> str:
    return f"<td{f' class="{kind}"' if kind else ''}>{markup(str(value))}</td>"


def _head(*names: str) -> str:
    return (
        "<tr>"
        + "".join(f"<th{' class="n"' if name[:1] == ' ' else ''}>{name.strip()}</th>" for name in names)
        + "</tr>"
    )


def _marks(run: RunView) -> list[Mark]:
    """Return a mark for each step after which a later attempt went on."""
    steps, attempts = run.curves.steps, run.curves.columns["attempt"]
    reasons = {attempt.number: words.end_of(run, attempt)[0] for attempt in run.attempts}
    found = []
    for place in np.flatnonzero(attempts[1:] != attempts[:-1]).tolist():
        before, after = int(attempts[place]), int(attempts[place + 1])
        found.append(
            Mark(
                float(steps[place]),
                f"step {steps[place]:,}: attempt {after}, after {reasons.get(before, 'an end')}",
            )
        )
    return found


def _plots(run: RunView) -> list[tuple[str, str]]:
    """Return titles and SVGs, without those that have no data."""
    x = run.curves.steps.astype(float)
    columns, marks = run.curves.columns, _marks(run)

    def plot(column: Array, *, log: bool = False) -> str:
        return line_chart([Series("", x, column)], marks, log=log)

    loss = [Series("training", x, columns["loss"])]
    loss += [Series(name, steps, losses) for name, (steps, losses) in list(run.validation.items())[:3]]
    used = np.cumsum(np.nan_to_num(columns["fill"])) * run.positions
    tokens = [Series("read", x, used), Series("learned", x, np.cumsum(np.nan_to_num(columns["targets"])))]
    with np.errstate(divide="ignore", invalid="ignore"):
        waiting = 100 * columns["data_s"] / columns["step_s"]
    drawn = [
        ("loss", line_chart(loss, marks, log=True)),
        ("gradient norm (before clipping)", plot(columns["grad_norm"], log=True)),
        ("learning rate", plot(columns["lr"])),
        ("tokens/s", plot(columns["tokens_per_s"])),
        ("MFU, %", plot(100 * columns["mfu"])),
        ("TFLOP/s per rank", "" if run.curves.has("mfu") else plot(columns["tflops_per_gpu"])),
        ("GPU memory at most, GiB", plot(columns["memory_gib"])),
        ("row fill, %", plot(100 * columns["fill"])),
        ("waiting for data, % of the step", plot(waiting)),
        ("seconds per step", plot(columns["step_s"], log=True)),
        ("tokens", line_chart(tokens, marks)),
        ("pass@1, %, with 95 % interval", line_chart(scores.series(run.scores))),
    ]
    return [(title, svg) for title, svg in drawn if svg]


def _timeline(run: RunView) -> str:
    bars = []
    for attempt in run.attempts:
        reason, detail = words.end_of(run, attempt)
        kind = "good" if reason.startswith(("finished", "running")) else "bad"
        kind = "stopped" if attempt.exit_code == 75 else kind
        text = f"attempt {attempt.number}, {attempt.world} ranks: {reason}" + (f": {detail}" if detail else "")
        bars.append(Bar(attempt.started, words.end_time(run, attempt), kind, text))
    return timeline(bars)


def _attempts(run: RunView) -> str:
    rows = [_head(" attempt", "started", " lasted", " ranks", "host", "job", " last step", "end", "")]
    for attempt in run.attempts:
        reason, detail = words.end_of(run, attempt)
        step = words.last_step(run, attempt)
        lasted = duration(words.end_time(run, attempt) - attempt.started)
        cells = [
            _cell(attempt.number, "n"),
            _cell(moment(attempt.started)),
            _cell(lasted, "n"),
            _cell(attempt.world, "n"),
            _cell(attempt.host),
            _cell(attempt.job or "-"),
            _cell("-" if step is None else f"{step:,}", "n"),
            _cell(reason),
            _cell(detail, "wide"),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _checkpoints(run: RunView) -> str:
    if not run.checkpoints:
        return "<p>none yet</p>"
    rows = [_head(" step", " GB", "")]
    for checkpoint in run.checkpoints:
        note = checkpoint.problem or ("latest" if checkpoint.latest else "")
        rows.append(
            f"<tr>{_cell(f'{checkpoint.step:,}', 'n')}{_cell(f'{checkpoint.size / 1e9:.3g}', 'n')}{_cell(note)}</tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _scores(run: RunView) -> str:
    if not run.scores:
        return ""
    rows = [_head(" step", "save", "task", " pass@1, % [95 %]", " problems", " samples")]
    for row in scores.rows(run.scores):
        cells = [_cell(f"{row.step:,}", "n"), _cell(row.kind), _cell(row.task), _cell(row.score, "n")]
        cells += [_cell(f"{row.problems:,}", "n"), _cell(f"{row.samples:,}", "n")]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<section><h2>scores of saved models</h2><table>{''.join(rows)}</table></section>"


def _problems(run: RunView) -> str:
    items = "".join(f"<p>{markup(problem)}</p>" for problem in run.problems)
    return f"<section><h2>records passed over</h2>{items}</section>" if items else ""


def render(run: RunView) -> str:
    """Return the whole page."""
    name = markup(str(run.path))
    cards = "".join(
        f'<div class="card"><span>{markup(f.name)}</span><b>{markup(f.value)}</b></div>' for f in words.figures(run)
    )
    plots = "".join(f"<figure><h2>{markup(title)}</h2>{svg}</figure>" for title, svg in _plots(run))
    restarts = max(0, len(run.attempts) - 1)
    recipe = markup(yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True))
    thinned = (
        "" if len(run.curves) <= 500 else " Lines are means of neighbouring steps, their shade is least to largest."
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{name}</title><style>{_STYLE}</style></head><body><main>
<h1>{name}</h1>
<p class="state {markup(run.status)}">{markup(words.state(run))}</p>
<p>{markup(words.model(run))}</p>
<div class="cards">{cards}</div>
<div class="plots">{plots}</div>
<p>{len(run.curves):,} steps; dashed lines are restarts.{thinned}</p>
<section><h2>{restarts} restart{"" if restarts == 1 else "s"}</h2>{_timeline(run)}{_attempts(run)}</section>
<section><h2>checkpoints</h2>{_checkpoints(run)}</section>{_scores(run)}{_problems(run)}
<section><details><summary>recipe</summary><pre>{recipe}</pre></details></section>
<p>made {moment(time.time())} by <code>python -m megatron_octo.inspect --report</code></p>
</main></body></html>
"""


def write_page(run: RunView, path: str | Path) -> None:
    """Write the page to a file."""
    with atomic_write(path, "w") as file:
        file.write(render(run))
