"""Whether a machine can score a language: its toolchain, then right and wrong solutions of known problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.languages.base import Language
from megatron_octo.evaluation.records import Judged, Kind
from megatron_octo.evaluation.scoring.progress import Meter
from megatron_octo.evaluation.scoring.score import Scorer, Work

ROWS = 3
CANONICAL, BUGGY = 0, 1  # numbers of the samples of a check


@dataclass(frozen=True)
class Check:
    """Result for one language.

    Attributes:
        version: of the toolchain.
        missing: packages to install.
        faults: what went wrong, one line each; empty if the language can be scored.
        programs: how many ran.
    """

    language: str
    version: str
    missing: tuple[str, ...]
    faults: tuple[str, ...]
    programs: int

    @property
    def good(self) -> bool:
        """Whether the language can be scored."""
        return not self.faults


def toolchain_check(name: str, language: Language) -> Check:
    """Look for a language's toolchain without running a program."""
    found = language.toolchain()
    faults = () if found.found else (f"no toolchain: {', '.join(found.missing) or 'unknown'}",)
    return Check(name, found.version, found.missing, faults, 0)


def self_check(scorer: Scorer, rows: Mapping[str, Sequence[Row]]) -> list[Check]:
    """Run three right and three wrong solutions of each language of the scorer.

    Args:
        scorer: judges them.
        rows: by language, at least one each.
    """
    checks = {name: toolchain_check(name, language) for name, language in scorer.languages.items()}
    works = [work for name, check in checks.items() if check.good for work in _works(rows[name])]
    judged: list[Judged] = []
    with Meter(len(works), "self-check") as meter:
        scorer.score(works, {}, judged.append, meter)
    found = []
    for name, check in checks.items():
        own = [each for each in judged if each.task == _task(name).name]
        faults = check.faults + tuple(_fault(each) for each in sorted(own, key=lambda each: each.key) if _is_bad(each))
        found.append(Check(name, check.version, check.missing, faults, len(own)))
    return found


def refuse_bad(checks: Sequence[Check]) -> None:
    """Refuse to score languages that fail.

    Raises:
        OctoError: names each with its faults.
    """
    bad = [check for check in checks if not check.good]
    if bad:
        words = "; ".join(f"{check.language}: {', '.join(check.faults)}" for check in bad)
        raise OctoError(
            f"this machine cannot score {', '.join(check.language for check in bad)} ({words})",
            where="evaluate score",
            hint="evaluate doctor; install what is missing, or leave these languages out of --tasks or --languages",
        )


def _task(language: str) -> Task:
    return Task("fixtests", language)


def _works(rows: Sequence[Row]) -> list[Work]:
    return [
        Work(_task(row.language), row, sample, "\n" + text)
        for row in rows[:ROWS]
        for sample, text in ((CANONICAL, row.canonical_solution), (BUGGY, row.buggy_solution))
    ]


def _is_bad(judged: Judged) -> bool:
    return (judged.verdict.kind == Kind.PASSED) != (judged.sample == CANONICAL)


def _fault(judged: Judged) -> str:
    if judged.sample == CANONICAL:
        return f"right solution {judged.problem}: {judged.verdict.kind}: {judged.verdict.detail[:300]}"
    return f"wrong solution {judged.problem} passed"
