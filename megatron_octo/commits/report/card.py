"""The data card: README.md with the hub's YAML header, and the report's main tables."""

from megatron_octo.commits.report import tables
from megatron_octo.commits.report.collect import Report
from megatron_octo.commits.report.counts import Counts
from megatron_octo.commits.report.markdown import escape, table_text
from megatron_octo.commits.tables.licences import hub_licences
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
    10**11: "10B<n<100B",
    10**12: "100B<n<1T",
}
_BODY = {
    "Stages": "How it was made",
    "Languages": "Languages",
    "Licences": "Licences",
    "First words of subjects": "First words of subjects",
    "Duplicates": "Duplicates",
    "Contamination": "Contamination",
    "Odd rows": "Odd rows",
    "OctoPack's data": "OctoPack's data",
}


def size_category(rows: int) -> str:
    """Return the hub's word for a number of rows."""
    return next((word for limit, word in _SIZES.items() if rows < limit), "n>1T")


def licence_ids(names: Counts) -> list[str]:
    """Return the hub's ids of licences; ``other`` for all that it has none for."""
    return sorted({name if name in hub_licences() else "other" for name in names}) or ["unknown"]


def card(report: Report, name: str, files: str, note: str = "") -> str:
    """Return the card.

    Args:
        report: the counts.
        name: of the data set.
        files: pattern of the data's files, relative to the card.
        note: on its licences.
    """
    licences = licence_ids(report.licence_names)
    header = {
        "pretty_name": printable(name),
        "language": ["code", "en"],
        "license": licences,
        **({"license_name": "several"} if "other" in licences else {}),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(report.total.rows)],
        "tags": ["code", "commits", "code-editing", "instruction-tuning"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    total, size = report.total, tables.megabytes(report.total.size)
    parts = [
        f"---\n{dump_yaml(header)}---\n",
        f"# {escape(name)}\n",
        f"{total.rows:,} commits that edit one file: the file before, the subject of the message, the file after."
        f" {size} MB of contents; languages: {tables.languages(report)}.\n",
    ]
    made = {table.title: table for table in tables.tables(report)}
    for title, shown in _BODY.items():
        parts.append(f"## {shown}\n\n{table_text(made[title])}")
        if title == "Licences":
            parts.append("Each row's licence is in the column `license`.\n")
            parts += [f"{escape(note)}\n"] if note else []
    parts.append("`report.md` and `report.html` have the counts of each stage, and show some rows.\n")
    return "\n".join(parts)
