"""Check of a language before its scores count: right solutions pass, and buggy ones do not."""

from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.scoring.judge import Judge

KNOWN = ("canonical", "buggy", "empty")


@dataclass(frozen=True)
class Check:
    """Result for a language: right solutions that passed, buggy ones that did, of how many; and the first fault."""

    passed: int
    forgiven: int
    of: int
    fault: str = ""

    @property
    def good(self) -> bool:
        """Whether the language may be scored."""
        return self.passed == self.of and self.forgiven == 0


def known_answer(row: Row, which: str) -> str:
    """Return the answer of a model that gives a known solution: ``canonical``, ``buggy`` or ``empty``."""
    if which == "empty":
        return ""
    return "\n" + (row.canonical_solution if which == "canonical" else row.buggy_solution)


def check_language(rows: list[Row], judge: Judge) -> Check:
    """Judge right and buggy solutions of a few rows, spread over the benchmark."""
    # The first ones end quickly even with their bug.
    chosen = rows[:1] + rows[len(rows) // 3 : len(rows) // 3 + 1] + rows[-1:]
    chosen = [row for number, row in enumerate(chosen) if row not in chosen[:number]]
    passed, forgiven, fault = 0, 0, ""
    box = judge.boxes()[0]
    for row in chosen:
        for which in ("canonical", "buggy"):
            answer = cut(Task("fixtests", row.language), row, known_answer(row, which), compat=judge.compat)
            _, verdict = judge.one(row, answer.solution, box)
            good = (verdict.kind is Kind.PASSED) == (which == "canonical")
            passed += which == "canonical" and good
            forgiven += which == "buggy" and not good
            if not good and not fault:
                fault = f"{row.task_id}, {which}: {verdict.kind}: {verdict.detail}"
    return Check(passed, forgiven, len(chosen), fault)


def require(name: str, check: Check) -> None:
    """Refuse to score a language whose toolchain does not judge rightly.

    Raises:
        OctoError: with the first fault.
    """
    if not check.good:
        raise OctoError(
            f"{name} is not scored: {check.passed} of {check.of} right solutions pass and {check.forgiven} buggy ones "
            f"do\n    {check.fault}",
            where="self-check",
            hint="evaluate doctor shows the toolchains",
        )
