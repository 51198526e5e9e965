"""Tests of judging many programs: the cache, retries, faults of workers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.cache import VerdictCache
from megatron_octo.evaluation.scoring.judge import Job, Judge
from tests.evaluation.scoring.conftest import MakeJudge


class _Shaky(Language):
    """A language whose machine fails a given number of times for each program."""

    name = "python"

    def __init__(self, failures: int, missing: tuple[str, ...] = ()) -> None:
        self.failures, self.missing = failures, missing
        self.tries: dict[str, int] = {}

    def toolchain(self) -> Toolchain:
        return Toolchain(not self.missing, "1", "digest", self.missing)

    def program(self, row: Row, solution: str) -> Program:
        return Program({}, f"{row.number}{solution}")

    def judge(self, program: Program, box: Sandbox, limits: Limits) -> Verdict:
        self.tries[program.digest] = self.tries.get(program.digest, 0) + 1
        failed = self.tries[program.digest] <= self.failures
        return Verdict(Kind.INFRASTRUCTURE if failed else Kind.PASSED, 1)


def _jobs(benchmark: Path) -> list[Job[int]]:
    return [Job(row.number, row, row.declaration + row.canonical_solution) for row in read_rows(benchmark, "python")]


def _shaky(judge: Judge, language: Language) -> None:
    judge._languages["python"] = language


def test_what_the_machine_failed_at_is_tried_again_and_not_remembered(
    benchmark: Path, make_judge: MakeJudge, tmp_path: Path
) -> None:
    judge, language = make_judge(VerdictCache(tmp_path / "v.sqlite")), _Shaky(2)
    _shaky(judge, language)
    assert {judged.verdict.kind for judged in judge.all(_jobs(benchmark))} == {Kind.PASSED}
    assert set(language.tries.values()) == {3}
    hopeless = _Shaky(10)
    other = make_judge(VerdictCache(tmp_path / "w.sqlite"))
    _shaky(other, hopeless)
    for _ in range(2):
        assert {judged.verdict.kind for judged in other.all(_jobs(benchmark))} == {Kind.INFRASTRUCTURE}
    assert set(hopeless.tries.values()) == {6}


def test_equal_programs_run_once(benchmark: Path, make_judge: MakeJudge, tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "v.sqlite")
    first = {judged.job.key: judged.verdict for judged in make_judge(cache).all(_jobs(benchmark))}
    second = {judged.job.key: judged.verdict for judged in make_judge(cache).all(_jobs(benchmark))}
    assert {verdict.kind for verdict in first.values()} == {Kind.PASSED}
    assert not any(verdict.cached for verdict in first.values()) and all(v.cached for v in second.values())
    assert all(second[key].run_cpu_s == verdict.run_cpu_s for key, verdict in first.items())


def test_a_missing_toolchain_names_its_packages(benchmark: Path, make_judge: MakeJudge) -> None:
    judge = make_judge()
    _shaky(judge, _Shaky(0, ("apt: something",)))
    with pytest.raises(OctoError, match="python cannot be scored: apt: something"):
        list(judge.all(_jobs(benchmark)))


def test_a_fault_of_the_caller_ends_all_workers(benchmark: Path, make_judge: MakeJudge) -> None:
    def jobs() -> Iterator[Job[int]]:
        yield from _jobs(benchmark)
        raise OctoError("a row is missing")

    judge = make_judge()
    _shaky(judge, _Shaky(0))
    with pytest.raises(OctoError, match="a row is missing"):
        list(judge.all(jobs()))
