"""The report in Markdown: the same tables as on the page, and the sampled rows as diffs."""

import re
from collections.abc import Iterator

from megatron_octo.commits.report import tables
from megatron_octo.commits.report.collect import Report
from megatron_octo.commits.report.samples import about, edit
from megatron_octo.commits.report.tables import Table
from megatron_octo.commits.rows import Row
from megatron_octo.common.terminal import printable

_ACTIVE = re.compile(r"[\\`*_\[\]<>&|!~#$@]|(?<=\bwww)\.|:(?=//)")  # marks, and what becomes a link by itself


def escape(text: object) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _ACTIVE.sub(lambda found: f"\\{found[0]}", printable(text))


def table_text(table: Table) -> str:
    """Return a table, with its note before it."""
    lines = [f"{table.note}\n"] if table.note else []
    if table.rows:
        lines += [f"| {' | '.join(map(escape, table.head))} |", "|" + "---|" * len(table.head)]
        lines += [f"| {' | '.join(map(escape, row))} |" for row in table.rows]
    return "\n".join(lines) + "\n"


def markdown(report: Report, name: str, note: str = "") -> Iterator[str]:
    """Yield the parts of the report.

    Args:
        report: the counts.
        name: of the data set.
        note: on its licences.
    """
    yield f"# {escape(name)}\n\n{summary(report)}\n"
    sizes = [tables.size_table(measure, bins) for measure, bins in report.histograms.items()]
    for table in [*tables.tables(report), *sizes]:
        yield f"\n## {escape(table.title)}\n\n{table_text(table)}"
        if note and table.title == "Licences":
            yield f"\n{escape(note)}\n"
    yield f"\n## {len(report.samples):,} rows, chosen by a hash of the commit\n"
    for row in report.samples:
        yield sample(row)


def summary(report: Report) -> str:
    """Return a line with the totals."""
    total = report.total
    counted = tables.tokens(total)
    words = "" if counted == tables.NOT_KNOWN else f", {counted} tokens"
    size = tables.megabytes(total.size)
    return f"{total.rows:,} rows, {size} MB of contents{words}; languages: {tables.languages(report)}."


def sample(row: Row) -> str:
    """Return a row as a diff in a fence that it cannot close."""
    lines = [line for _, line in edit(row)]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    body = "\n".join(lines)
    return f"\n### {escape(row.subject)}\n\n{escape(about(row))}\n\n{fence}diff\n{body}\n{fence}\n"
