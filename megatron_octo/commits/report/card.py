"""The data card: README.md with the hub's YAML header, and the report's tables in Markdown."""

from megatron_octo.commits.report import tables
from megatron_octo.commits.report.collect import Report
from megatron_octo.commits.report.tables import Table
from megatron_octo.common.strict_yaml import dump_yaml
from megatron_octo.common.terminal import printable

_SIZES: dict[int, str] = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
    10**10: "1B<n<10B",
}


def size_category(rows: int) -> str:
    """Return the hub's word for a number of rows."""
    return next((word for limit, word in _SIZES.items() if rows < limit), "n>10B")


def card(report: Report, name: str, files: str) -> str:
    """Return the card.

    Args:
        report: the counts.
        name: of the data set.
        files: pattern of the data's files, relative to the card.
    """
    licences = sorted({each for names in report.licences for each in names.split(",")} - {"unknown"})
    header = {
        "pretty_name": printable(name),
        "language": ["code", "en"],
        "license": licences if licences else "unknown",
        "task_categories": ["text-generation"],
        "size_categories": [size_category(report.total.rows)],
        "tags": ["code", "commits", "code-editing", "instruction-tuning"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    parts = [f"---\n{dump_yaml(header)}---\n", f"# {printable(name)}\n"]
    total = report.total
    parts.append(
        f"{total.rows:,} commits that edit one file: the file before, the subject of the message, the file after."
        f" {tables.megabytes(total.size)} MB of contents in {len(report.final):,} languages.\n"
    )
    sections = {
        "How it was made": tables.stage_table(report),
        "Languages": tables.language_table(report),
        "Licences": tables.count_table("licence", report.licences),
        "First words of subjects": tables.count_table("word", report.verbs, 20),
        "Facts": tables.facts(report),
        "OctoPack's data": tables.PUBLISHED,
    }
    parts += [f"## {title}\n\n{_table(table)}" for title, table in sections.items()]
    parts.append("Each row's licence is in the column `license`. `report.html` shows some rows.\n")
    return "\n".join(parts)


def _table(table: Table) -> str:
    head, rows = table
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        cells = (printable(each).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for each in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
