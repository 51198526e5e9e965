"""Tables of a report, as rows of text: the page and the card show the same."""

from collections.abc import Sequence

from megatron_octo.commits.report.collect import Amount, Report

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
# Source: OctoPack's visuals, arXiv 2308.07124. KiB of jsonl.
PUBLISHED: Table = (
    ("published data set", "rows", "languages", "MB"),
    [("CommitPack", "57,700,105", "350", "3,798,196"), ("CommitPackFT", "702,062", "277", "1,582")],
)


def megabytes(size: int) -> str:
    """Return bytes in MB, which are 10^6."""
    return f"{size / 1e6:,.1f}"


def stage_table(report: Report) -> Table:
    """Return a row for each stage: rows in, kept, dropped with reasons, CPU seconds."""
    rows = []
    for stage in report.stages:
        reasons = ", ".join(
            f"{count:,} {rule}" for rule, count in sorted(stage.dropped.items(), key=lambda each: -each[1])
        )
        dropped = sum(stage.dropped.values())
        rows.append(
            (stage.name, f"{stage.rows_in:,}", f"{dropped:,}", f"{stage.kept:,}", reasons, f"{stage.cpu_seconds:.1f}")
        )
    return ("stage", "rows in", "dropped", "kept", "reasons", "CPU s"), rows


def language_table(report: Report, most: int = 400) -> Table:
    """Return a row for each language: rows after each stage, and rows, MB and tokens at the end."""
    names = [stage.name for stage in report.stages] if report.amounts else []
    head = ("language", *(["before"] if names else []), *(f"after {name}" for name in names), "rows", "MB", "tokens")
    languages = {lang for lang, _ in report.amounts} | set(report.final)
    order = sorted(languages, key=lambda lang: (-report.final.get(lang, Amount()).rows, lang))
    steps = range(len(names) + 1 if names else 0)
    rows = []
    for lang in order[:most]:
        counts = [report.after(number, lang).rows for number in steps]
        end = report.final.get(lang, Amount())
        rows.append((lang, *(f"{each:,}" for each in counts), f"{end.rows:,}", megabytes(end.size), f"{end.tokens:,}"))
    total = report.total
    sums = (
        [sum(report.after(number, lang).rows for lang in languages) for number in range(len(names) + 1)]
        if names
        else []
    )
    last = (f"{total.rows:,}", megabytes(total.size), f"{total.tokens:,}")
    return head, [*rows, ("all", *(f"{each:,}" for each in sums), *last)]


def count_table(name: str, counts: dict[str, int], most: int = 30) -> Table:
    """Return the most frequent of some counted values, with their share."""
    total = sum(counts.values()) or 1
    order = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:most]
    return (name, "rows", "share"), [(value, f"{count:,}", f"{100 * count / total:.1f} %") for value, count in order]


def facts(report: Report) -> Table:
    """Return what sets of commits often get wrong, counted."""
    contaminated = sum(stage.notes for stage in report.stages if stage.name == "decontaminate")
    rows: list[Sequence[str]] = [
        ("rows without contents before", f"{report.empty:,}"),
        ("rows in which texts of benchmarks were found", f"{contaminated:,}"),
    ]
    rows += [(f"duplicates by {kind}", f"{count:,}") for kind, count in sorted(report.duplicates.items())]
    return ("fact", "rows"), rows
