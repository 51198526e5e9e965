"""All reports of an evaluation: ``scores.json``, ``report.md`` and ``report.html``."""

from collections.abc import Sequence
from pathlib import Path

from megatron_octo.common.files import atomic_write
from megatron_octo.evaluation.results.comparison import compare, unlike
from megatron_octo.evaluation.results.failures import Prompts
from megatron_octo.evaluation.results.markdown import to_markdown
from megatron_octo.evaluation.results.page import write_page
from megatron_octo.evaluation.results.summary import KS, Summary, summarize, write_scores


def report(
    output: Path, other: Path | None = None, *, data: str | None = None, ks: Sequence[int] = KS
) -> tuple[Summary, str]:
    """Write the reports of an evaluation into its folder.

    Args:
        output: folder of the evaluation.
        other: a second one; the reports then show the difference, second minus first.
        data: place of the benchmark's rows, for the prompts; None: as in the header.
        ks: of pass@k.

    Returns:
        The summary and the Markdown.

    Raises:
        OctoError: there is nothing to report, or the two have no task in common.
    """
    summary = summarize(output, ks)
    compared, also = [], []
    if other is not None:
        second = summarize(other, ks)
        compared, also = compare(summary, second), list(unlike(summary, second))
    text = to_markdown(summary, compared, also)
    write_scores(summary)
    with atomic_write(output / "report.md", "w") as file:
        file.write(text)
    write_page(output / "report.html", summary, Prompts(summary, data), compared, also, f"HumanEvalPack: {output.name}")
    return summary, text
