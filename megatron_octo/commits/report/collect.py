"""Counts of a chain: by language before and after each stage, of the rows that are left, and some of them."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.commits.filters.models import MODELS
from megatron_octo.commits.filters.subject import Look
from megatron_octo.commits.report.counts import Amount, Counts, Histogram, Names, total
from megatron_octo.commits.report.samples import Samples
from megatron_octo.commits.report.stages import Span, Stage, owners, read_chain, spans
from megatron_octo.commits.rows import UNKNOWN, Row, read_rows
from megatron_octo.commits.rows.progress import Meter
from megatron_octo.commits.rows.row import text_bytes
from megatron_octo.common.errors import OctoError

type ByLanguage = dict[str, Amount]
type CountTokens = Callable[[Row], int | None]
_LANGUAGES = 2000  # that are told apart
_LARGE = 10**6  # bytes
_STEP = 1000  # rows between steps of the progress


@dataclass(frozen=True)
class Flow:
    """What a stage did, by language.

    Attributes:
        before: rows that no stage before dropped; None where no output tells.
        dropped: by language and rule; None where no output tells.
        after: rows that are kept.
    """

    before: ByLanguage | None
    dropped: dict[tuple[str, str], Amount] | None
    after: ByLanguage


@dataclass
class Report:
    """All that is shown.

    Attributes:
        stages: in order.
        flows: of each stage.
        verbs: kept rows of the last output by the subject's first word.
        licences: the same by licence, as the rows spell it.
        licence_names: the same by each part of it.
        histograms: the same by size, for each measure.
        facts: the same by what is odd in them.
        samples: some of them.
    """

    stages: list[Stage]
    flows: list[Flow] = field(default_factory=list)
    verbs: Counts = field(default_factory=Counts)
    licences: Counts = field(default_factory=Counts)
    licence_names: Counts = field(default_factory=Counts)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    facts: Counter[str] = field(default_factory=Counter)
    samples: list[Row] = field(default_factory=list)

    @property
    def final(self) -> ByLanguage:
        """What the last output holds, by language."""
        return self.flows[-1].after

    @property
    def total(self) -> Amount:
        """What the last output holds."""
        return total(self.final.values())


def known_tokens(row: Row) -> int | None:
    """Return the number of tokens that the filter counted; None if it did not."""
    tokens = row.signals.get("tokens")
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


def token_counter(tokenizer: Path | None, stages: Sequence[Stage]) -> CountTokens:
    """Return what tells a row's tokens: the column of the filter, else its way of counting by the tokenizer.

    Raises:
        OctoError: the tokenizer is missing or unusable.
    """
    if tokenizer is None:
        return known_tokens
    from megatron_octo.commits.filters.tokens import TokenRule

    chosen = next((stage.settings for stage in stages if stage.name == "filter"), {})
    model = MODELS.get(str(chosen.get("model")), MODELS["starcoder"])
    rule = TokenRule(tokenizer, model, "octopack" if chosen.get("mode") == "octopack" else "fixed")

    def count(row: Row) -> int:
        known = known_tokens(row)
        return rule.count(Look.of(row)) if known is None else known

    return count


def collect(outputs: Sequence[Path], samples: int, seed: int, tokenizer: Path | None = None) -> Report:
    """Count the rows of a chain.

    Reads the last output, and those before it that hold what it does not tell: see :func:`spans`. A row counts in the
    language, and with the contents, of the output that was read. Memory is bounded: it depends on the numbers of
    languages, rules and samples, not on that of rows, and on the largest row.

    Raises:
        OctoError: an output is no stage's, does not follow from the one before, is damaged, or does not hold the rows
            that its manifest counts.
    """
    stages = read_chain(outputs)
    report, tokens, drawn = Report(stages), token_counter(tokenizer, stages), Samples(samples, seed)
    needed = spans(stages)
    flows: dict[int, Flow] = {}
    with Meter("report", sum(stages[span.last].written for span in needed)) as meter:
        for span in needed:
            watch = functools.partial(_look, report, drawn) if span.last == len(stages) - 1 else None
            flows |= _flows(stages, span, _count(stages[span.last], tokens, meter, watch))
    report.flows = [flows[number] for number in range(len(stages))]
    for number, (before, after) in enumerate(zip(report.flows, report.flows[1:], strict=False)):
        if after.before is None:
            report.flows[number + 1] = Flow(before.after, after.dropped, after.after)
    report.samples = drawn.rows
    return report


def _count(
    stage: Stage, tokens: CountTokens, meter: Meter, watch: Callable[[Row, int, int | None], None] | None
) -> dict[tuple[str, str | None], Amount]:
    """Return the rows of an output by language and rule; None for those that are kept."""
    found: dict[tuple[str, str | None], Amount] = {}
    languages = Names(_LANGUAGES)
    number = 0
    for number, row in enumerate(read_rows(stage.path), 1):
        if row.drop is not None and row.drop not in stage.all_dropped:
            raise OctoError(f"{row.name}: dropped by {row.drop!r}, which its manifest does not count", where=stage.path)
        size, count = row.content_bytes, tokens(row)
        found.setdefault((languages(row.lang or UNKNOWN), row.drop), Amount()).note(size, count)
        if watch is not None and row.drop is None:
            watch(row, size, count)
        if number % _STEP == 0:
            meter.add(_STEP, _STEP)
    meter.add(number % _STEP, number % _STEP)
    return found


def _flows(
    stages: Sequence[Stage], span: Span, found: dict[tuple[str, str | None], Amount]
) -> Iterator[tuple[int, Flow]]:
    """Yield the flows of a span's stages by their numbers.

    Raises:
        OctoError: they are not what the manifests say.
    """
    owner = owners(stages, span)
    after: ByLanguage = {lang: amount for (lang, rule), amount in found.items() if rule is None}
    for number in range(span.last, span.first - 1, -1):
        stage = stages[number]
        _check(stage, "kept rows", total(after.values()).rows, stage.kept)
        if not stage.clear:
            yield number, Flow(None, None, after)
            return
        dropped = {(lang, rule): each for (lang, rule), each in found.items() if rule and owner.get(rule) == number}
        for rule, count in stage.dropped.items():
            _check(
                stage, f"rows of {rule!r}", total(each for (_, by), each in dropped.items() if by == rule).rows, count
            )
        before = dict(after)
        for (lang, _), each in dropped.items():
            before[lang] = before.get(lang, Amount()) + each
        yield number, Flow(before, dropped, after)
        after = before


def _check(stage: Stage, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        text = f"{found:,} {what}, but its manifest counts {wanted:,}"
        raise OctoError(text, where=stage.path, hint="run the stage again, and name the outputs of one chain")


def _look(report: Report, drawn: Samples, row: Row, size: int, tokens: int | None) -> None:
    """Count a row that is left at the end."""
    report.verbs.note(str(row.signals.get("verb") or row.subject[:200].split(" ", 1)[0].lower()))
    licence = row.license or UNKNOWN
    report.licences.note(licence)
    for name in set(licence[:1000].split(",")):
        report.licence_names.note(name)
    sizes = {
        "characters before": len(row.old_contents or ""),
        "characters after": len(row.new_contents or ""),
        "characters of the subject": len(row.subject),
        "tokens": tokens,
    }
    for name, value in sizes.items():
        if value is not None:
            report.histograms.setdefault(name, Histogram()).note(value)
    odd = {
        "no contents before, or an empty file": not row.old_contents,
        "no contents after, or an empty file": not row.new_contents,
        "the same contents before and after": (row.old_contents or "") == (row.new_contents or ""),
        "more than 1 MB of contents": size > _LARGE,
        "a message of more than 10 kB": text_bytes(row.message) > 10_000,
    }
    for name, holds in odd.items():
        report.facts[name] += holds
    drawn.offer(row)
