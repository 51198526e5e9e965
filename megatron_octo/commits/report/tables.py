"""Tables of a report, as rows of text: the page, its twin in Markdown and the card show the same."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from megatron_octo.commits.clean.dedup_command import RULES as DUPLICATES
from megatron_octo.commits.report.collect import ByLanguage, Flow, Report
from megatron_octo.commits.report.counts import OTHERS, Amount, Counts, least, short, total
from megatron_octo.commits.report.stages import Stage

NOT_KNOWN = "-"
_LANGUAGES = 400  # lines of a table; the others are summed
_EXAMPLES = 20  # of texts of benchmarks
# Source: OctoPack's visuals, arXiv 2308.07124: rows, languages, KiB of jsonl.
_PUBLISHED = (("CommitPack", 57_700_105, 350, 3_709_175_780), ("CommitPackFT", 702_062, 277, 1_545_020))


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Attributes:
        title: what it shows.
        head: names of the columns.
        rows: each as long as the head.
        note: a sentence to read with it.
        folded: whether a page shows it on demand.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False


def megabytes(size: int) -> str:
    """Return bytes in MB, which are 10^6; small ones to the kB."""
    return f"{size / 1e6:,.{3 if size < 10**7 else 1}f}"


def tokens(amount: Amount) -> str:
    """Return a number of tokens; a least one where not all rows were counted."""
    if amount.rows and not amount.counted:
        return NOT_KNOWN
    return f"{'' if amount.counted == amount.rows else 'at least '}{amount.tokens:,}"


def languages(report: Report) -> str:
    """Return the number of languages at the end; a least one where they were too many to tell apart."""
    return f"{'at least ' if OTHERS in report.final else ''}{len(report.final):,}"


def tables(report: Report) -> list[Table]:
    """Return all tables but those of sizes, in order."""
    found = [stage_table(report), language_table(report)]
    found += [flow_table(stage, flow) for stage, flow in zip(report.stages, report.flows, strict=True)]
    found += [
        count_table("First words of subjects", "word", report.verbs),
        count_table("Licences", "licence", report.licences),
        duplicate_table(report),
        *contamination_tables(report),
        fact_table(report),
        published_table(report),
    ]
    return found


def stage_table(report: Report) -> Table:
    """Return a row for each stage: kept rows before and after, the dropped ones with reasons, CPU seconds."""
    rows = []
    for stage, flow in zip(report.stages, report.flows, strict=True):
        after, before = total(flow.after.values()), total((flow.before or {}).values())
        size = NOT_KNOWN if flow.before is None else megabytes(before.size)
        numbers = (f"{stage.before:,}", f"{stage.before - stage.kept:,}", f"{stage.kept:,}", size)
        reasons = _reasons(stage.dropped)
        rows.append((stage.name, *numbers, megabytes(after.size), tokens(after), reasons, f"{stage.cpu_seconds:.1f}"))
    head = (
        "stage",
        "rows before",
        "dropped",
        "rows after",
        "MB before",
        "MB after",
        "tokens after",
        "reasons",
        "CPU s",
    )
    gone = sum(report.stages[0].all_dropped.values()) - sum(report.stages[0].dropped.values())
    note = f"{gone:,} more rows were dropped before the first stage." if gone else ""
    return Table("Stages", head, rows, note)


def _reasons(dropped: Mapping[str, int]) -> str:
    order = sorted(dropped.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count:,} {rule}" for rule, count in order if count)


def language_table(report: Report) -> Table:
    """Return a row for each language: rows before and after each stage, and MB and tokens at the end."""
    first, steps = report.flows[0].before, [flow.after for flow in report.flows]
    names = {lang for amounts in (first or {}, *steps) for lang in amounts}
    rows = []
    for lang, pick in _lines(names, report.final):
        before = NOT_KNOWN if first is None else f"{pick(first).rows:,}"
        end = pick(report.final)
        rows.append(
            (lang, before, *(f"{pick(each).rows:,}" for each in steps), megabytes(end.size), tokens(end)),
        )
    if first is None:
        rows[-1] = (rows[-1][0], f"{report.stages[0].before:,}", *rows[-1][2:])
    head = ("language", "before", *(f"after {stage.name}" for stage in report.stages), "MB", "tokens")
    return Table("Languages", head, rows, "Numbers of rows; MB (10^6 bytes of contents) and tokens at the end.")


class _Pick:
    """Sums the amounts of some languages."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)

    def __call__(self, amounts: ByLanguage) -> Amount:
        return total(amounts[name] for name in self.names if name in amounts)


def _lines(names: set[str], by: ByLanguage) -> list[tuple[str, _Pick]]:
    """Return what the lines of a table sum: languages by their rows, the rest, and all."""
    order = sorted(names, key=lambda lang: (-by.get(lang, Amount()).rows, lang))
    found = [(lang, _Pick([lang])) for lang in order[:_LANGUAGES]]
    if rest := order[_LANGUAGES:]:
        found.append((f"{len(rest):,} more", _Pick(rest)))
    return [*found, ("all", _Pick(order))]


def flow_table(stage: Stage, flow: Flow) -> Table:
    """Return a row for each language: rows, MB and tokens before and after a stage, and why rows were dropped."""
    known = flow.before is not None
    rows = []
    for lang, pick in _lines({*(flow.before or {}), *flow.after}, flow.before or flow.after):
        after = pick(flow.after)
        before = pick(flow.before) if flow.before is not None else Amount()
        gone, reasons = before.rows - after.rows, NOT_KNOWN
        if flow.dropped is not None:
            counts: Counter[str] = Counter()
            for (of, rule), each in flow.dropped.items():
                counts[rule] += each.rows if of in pick.names else 0
            reasons = _reasons(counts)
        middle = (f"{before.rows:,}", f"{gone:,}") if known and gone >= 0 else (NOT_KNOWN, NOT_KNOWN)
        sizes = (megabytes(before.size), tokens(before)) if known else (NOT_KNOWN, NOT_KNOWN)
        rows.append(
            (lang, *middle, reasons, f"{after.rows:,}", sizes[0], megabytes(after.size), sizes[1], tokens(after))
        )
    sums = (f"{stage.before:,}", f"{stage.before - stage.kept:,}", _reasons(stage.dropped))
    rows[-1] = ("all", *sums, *rows[-1][4:])
    head = (
        "language",
        "before",
        "dropped",
        "reasons",
        "after",
        "MB before",
        "MB after",
        "tokens before",
        "tokens after",
    )
    note = "" if flow.dropped is not None else "No output tells the reasons by language."
    return Table(f"Languages: {stage.name}", head, rows, note, folded=True)


def count_table(title: str, name: str, counts: Counts, most: int = 30) -> Table:
    """Return the most frequent of some counted values, with their share, and the sum of the others."""
    rows_all = counts.total()
    order = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    lines = [(value, count) for value, count in order[:most]]
    if rest := order[most:]:
        lines.append((f"{len(rest):,} more", sum(count for _, count in rest)))
    rows = [
        (value, f"{count:,}", f"{100 * count / max(rows_all, 1):.1f} %") for value, count in [*lines, ("all", rows_all)]
    ]
    return Table(title, (name, "rows", "share"), rows)


def size_table(measure: str, bins: Sequence[int]) -> Table:
    """Return a histogram as a table."""
    rows = [(f"{least(place):,}", f"{count:,}") for place, count in enumerate(bins) if count]
    return Table(measure.capitalize(), ("from", "rows"), rows, "Each line counts sizes up to the double of its own.")


def duplicate_table(report: Report) -> Table:
    """Return how many rows were dropped as duplicates, by kind."""
    dedup = [stage for stage in report.stages if stage.name == "dedup"]
    seen = max((stage.before for stage in dedup), default=0)
    rows = []
    for kind, rule in DUPLICATES.items():
        count = sum(stage.dropped.get(rule, 0) for stage in dedup)
        rows.append((kind, f"{count:,}", f"{100 * count / max(seen, 1):.1f} %"))
    note = "" if dedup else "No stage looked for duplicates."
    return Table("Duplicates", ("equal in", "rows dropped", "share"), rows if dedup else [], note)


def contamination_tables(report: Report) -> list[Table]:
    """Return in how many rows texts of each benchmark were found, and some of these rows."""
    stages = [stage for stage in report.stages if stage.name == "decontaminate"]
    hits = [hit for stage in stages for hit in stage.hits]
    per = Counter(name for hit in hits for name in {short(each.partition("/")[0]) for each in hit.found})
    dropped = sum(sum(stage.dropped.values()) for stage in stages)
    note = f"{len(hits):,} rows with texts of benchmarks, {dropped:,} dropped."
    rows = [(name, f"{count:,}") for name, count in sorted(per.items(), key=lambda each: (-each[1], each[0]))[:100]]
    tables = [Table("Contamination", ("benchmark", "rows"), rows, note if stages else "No stage looked for it.")]
    if hits:
        shown = [
            (short(hit.commit)[:12], short(hit.file), "; ".join(map(short, hit.found[:3])))
            for hit in islice(hits, _EXAMPLES)
        ]
        tables.append(Table("Rows with texts of benchmarks", ("commit", "file", "found"), shown, folded=True))
    return tables


def fact_table(report: Report) -> Table:
    """Return what sets of commits often get wrong, counted."""
    rows = [(name, f"{count:,}") for name, count in report.facts.items()]
    return Table("Odd rows", ("kept rows with", "rows"), rows)


def published_table(report: Report) -> Table:
    """Return this data set beside OctoPack's."""
    here = ("this data set", f"{report.total.rows:,}", languages(report), megabytes(report.total.size))
    rows = [(name, f"{rows:,}", f"{number:,}", megabytes(kib * 1024)) for name, rows, number, kib in _PUBLISHED]
    note = "MB of contents here, of jsonl files there."
    return Table("OctoPack's data", ("data set", "rows", "languages", "MB"), [here, *rows], note)
