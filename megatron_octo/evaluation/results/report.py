"""All reports of an evaluation: ``scores.json``, ``report.md`` and ``report.html``."""

from pathlib import Path

from megatron_octo.common.files import atomic_write
from megatron_octo.evaluation import records
from megatron_octo.evaluation.results.difference import compare
from megatron_octo.evaluation.results.markdown import markdown
from megatron_octo.evaluation.results.page import page
from megatron_octo.evaluation.results.summary import summarize, write_scores


def write_reports(output: Path, other: Path | None = None, data: str | None = None) -> list[str]:
    """Write the reports of an evaluation into its directory; returns lines for the user.

    Args:
        output: the evaluation.
        other: a second one; the reports then show the difference, second minus first.
        data: where the benchmark's rows are; with them the page shows prompts.

    Raises:
        OctoError: there are no verdicts, or the two share no task.
    """
    scores, header = summarize(output), records.read_header(output)
    differences = compare(scores, summarize(other)) if other else []
    write_scores(output, scores)
    with atomic_write(output / records.REPORT, "w") as file:
        file.write(markdown(scores, header, differences))
    with atomic_write(output / records.PAGE) as file:
        for part in page(output, scores, header, differences, data):
            file.write(part.encode(errors="replace"))
    lines = []
    for name, score in scores.items():
        values = ", ".join(
            f"pass@{k} {found.value:.1f} % ({found.low:.1f} to {found.high:.1f})" for k, found in score.scores.items()
        )
        lines.append(f"{name}: {values}; {score.problems} problems, {score.samples} samples")
    for found in differences:
        change = found.change
        lines.append(f"{found.task}: {change.value:+.1f} ({change.low:+.1f} to {change.high:+.1f}), second minus first")
    return [*lines, f"{output / records.REPORT}, {output / records.PAGE}"]
