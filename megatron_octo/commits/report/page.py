"""The report as one HTML page, without scripts and without network."""

import base64
import difflib
import hashlib
from collections.abc import Iterator

from megatron_octo.commits.report import tables
from megatron_octo.commits.report.collect import Report
from megatron_octo.commits.report.tables import Table
from megatron_octo.commits.rows import Row
from megatron_octo.common.quoting import markup
from megatron_octo.common.terminal import printable

_LINES, _WIDTH = 200, 400  # of a diff
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --bar: #48a; --old: #c435; --new: #2a65; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: 13px; border-radius: 4px;
  margin: .3rem 0 1rem; }
pre span { display: block; } .old { background: var(--old); } .new { background: var(--new); } .place { opacity: .6; }
svg { max-width: 100%; height: auto; } svg rect { fill: var(--bar); } svg text { fill: currentColor; font-size: 10px; }
h3 { margin: 1rem 0 0; font-size: 1rem; overflow-wrap: anywhere; } .of { opacity: .7; overflow-wrap: anywhere; }
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, nothing runs, one style sheet counts."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def page(report: Report, name: str) -> Iterator[str]:
    """Yield the parts of the page."""
    title = markup(printable(name))
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{markup(policy())}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
    )
    total = report.total
    size = tables.megabytes(total.size)
    yield f"<p>{total.rows:,} rows, {size} MB of contents, {len(report.final):,} languages.</p>\n"
    yield f"<h2>Stages</h2>\n{_table(tables.stage_table(report))}"
    yield f"<h2>Languages</h2>\n{_table(tables.language_table(report))}"
    for measure, bins in report.histograms.items():
        yield f"<h2>{measure.capitalize()}</h2>\n{histogram(bins)}\n"
    yield f"<h2>First words of subjects</h2>\n{_table(tables.count_table('word', report.verbs))}"
    yield f"<h2>Licences</h2>\n{_table(tables.count_table('licence', report.licences))}"
    yield f"<h2>Facts</h2>\n{_table(tables.facts(report))}"
    yield f"<h2>OctoPack's data</h2>\n{_table(tables.PUBLISHED)}"
    yield f"<h2>{len(report.samples)} rows, chosen by a hash of the commit</h2>\n"
    for row in report.samples:
        yield sample(row)
    yield "</body></html>\n"


def _table(table: Table) -> str:
    head, rows = table
    cells = "".join(f"<th>{markup(each)}</th>" for each in head)
    lines = ("".join(f"<td>{markup(printable(each))}</td>" for each in row) for row in rows)
    return f"<table><tr>{cells}</tr>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"


def histogram(bins: list[int]) -> str:
    """Return a picture of a histogram in powers of two."""
    last = max((place for place, count in enumerate(bins) if count), default=0)
    top, parts = max(bins) or 1, []
    for place in range(last + 1):
        height = 120 * bins[place] / top
        parts.append(f'<rect x="{place * 44 + 2}" y="{130 - height:.1f}" width="40" height="{height:.1f}">')
        low = 0 if place == 0 else 1 << (place - 1)
        parts.append(f"<title>from {low:,}: {bins[place]:,} rows</title></rect>")
        label = f"{low}" if low < 1024 else f"{low >> 10}Ki" if low < 1 << 20 else f"{low >> 20}Mi"
        parts.append(f'<text x="{place * 44 + 22}" y="145" text-anchor="middle">{label}</text>')
    width = (last + 1) * 44 + 4
    return f'<svg viewBox="0 0 {width} 150" width="{width}" height="150" role="img">{"".join(parts)}</svg>'


def sample(row: Row) -> str:
    """Return a row as a coloured diff of lines."""
    about = " · ".join(each for each in (row.lang, row.license, row.repos, row.commit[:12], row.new_file) if each)
    old, new = (row.old_contents or "").splitlines(), (row.new_contents or "").splitlines()
    lines = []
    for number, line in enumerate(difflib.unified_diff(old, new, n=3, lineterm="")):
        if number < 2:
            continue
        if number > _LINES:
            lines.append('<span class="place">...</span>')
            break
        kind = {"+": "new", "-": "old", "@": "place"}.get(line[:1], "")
        lines.append(f'<span class="{kind}">{markup(printable(line[:_WIDTH]))}</span>')
    subject = markup(printable(row.subject))
    return f'<h3>{subject}</h3>\n<p class="of">{markup(printable(about))}</p>\n<pre>{"".join(lines)}</pre>\n'
