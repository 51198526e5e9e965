"""The report as one HTML page, without scripts and without network."""

import base64
import hashlib
from collections.abc import Iterator, Sequence

from megatron_octo.commits.report import tables
from megatron_octo.commits.report.collect import Report
from megatron_octo.commits.report.counts import least
from megatron_octo.commits.report.markdown import summary
from megatron_octo.commits.report.samples import about, edit
from megatron_octo.commits.report.tables import Table
from megatron_octo.commits.rows import Row
from megatron_octo.common.quoting import markup
from megatron_octo.common.terminal import printable

_BAR = 44  # width of a bar with its gap
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --bar: #48a; --old: #c435; --new: #2a65; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; display: block;
  overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
td.text { text-align: left; }
pre { background: var(--soft); padding: .6rem; overflow-x: auto; font-size: 13px; border-radius: 4px;
  margin: .3rem 0 1rem; }
pre span { display: block; } .old { background: var(--old); } .new { background: var(--new); } .place { opacity: .6; }
svg { max-width: 100%; height: auto; } svg rect { fill: var(--bar); } svg text { fill: currentColor; font-size: 10px; }
details { margin: .3rem 0; } summary { cursor: pointer; }
h3 { margin: 1rem 0 0; font-size: 1rem; overflow-wrap: anywhere; } .of { opacity: .7; overflow-wrap: anywhere; }
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, nothing runs, one style sheet counts."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def page(report: Report, name: str, note: str = "") -> Iterator[str]:
    """Yield the parts of the page.

    Args:
        report: the counts.
        name: of the data set.
        note: on its licences.
    """
    title = markup(printable(name))
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{markup(policy())}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
    )
    yield f"<p>{markup(summary(report))}</p>\n"
    for table in tables.tables(report):
        yield table_markup(table)
        if note and table.title == "Licences":
            yield f"<p>{markup(printable(note))}</p>\n"
    for measure, bins in report.histograms.items():
        yield f"<h2>{markup(measure.capitalize())}</h2>\n{histogram(bins)}\n"
    yield f"<h2>{len(report.samples):,} rows, chosen by a hash of the commit</h2>\n"
    for row in report.samples:
        yield sample(row)
    yield "</body></html>\n"


def table_markup(table: Table) -> str:
    """Return a table under its title."""
    cells = "".join(f"<th>{markup(each)}</th>" for each in table.head)
    lines = ("".join(map(_cell, row)) for row in table.rows)
    body = f"<p>{markup(table.note)}</p>\n" if table.note else ""
    if table.rows:
        body += f"<table><tr>{cells}</tr>\n" + "".join(f"<tr>{line}</tr>\n" for line in lines) + "</table>\n"
    title = markup(table.title)
    if table.folded:
        return f"<details><summary>{title}</summary>\n{body}</details>\n"
    return f"<h2>{title}</h2>\n{body}"


def _cell(text: str) -> str:
    """Return a cell; words stand at its left, numbers at its right."""
    number = not any(map(str.isalpha, text.removeprefix("at least ")))
    return f"<td{'' if number else ' class="text"'}>{markup(printable(text))}</td>"


def histogram(bins: Sequence[int]) -> str:
    """Return a picture of a histogram in powers of two."""
    last = max((place for place, count in enumerate(bins) if count), default=0)
    top, parts = max(bins) or 1, []
    for place in range(last + 1):
        height, low = 120 * bins[place] / top, least(place)
        parts.append(f'<rect x="{place * _BAR + 2}" y="{130 - height:.1f}" width="{_BAR - 4}" height="{height:.1f}">')
        parts.append(f"<title>from {low:,}: {bins[place]:,} rows</title></rect>")
        label = f"{low}" if low < 1024 else f"{low >> 10}Ki" if low < 1 << 20 else f"{low >> 20}Mi"
        middle = place * _BAR + _BAR // 2
        parts.append(f'<text x="{middle}" y="145" text-anchor="middle">{label}</text>')
    width = (last + 1) * _BAR + 4
    return f'<svg viewBox="0 0 {width} 150" width="{width}" height="150" role="img">{"".join(parts)}</svg>'


def sample(row: Row) -> str:
    """Return a row as a coloured diff of lines."""
    lines = (f'<span class="{kind}">{markup(line)}</span>' for kind, line in edit(row))
    subject = markup(printable(row.subject))
    return f'<h3>{subject}</h3>\n<p class="of">{markup(about(row))}</p>\n<pre>{"".join(lines)}</pre>\n'
