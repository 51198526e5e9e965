"""Verdicts of all samples of an evaluation's directory, and of known solutions."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark import repairs
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.rows import Row, data_digest
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.progress import Meter
from megatron_octo.evaluation.records import Kind, Sample, ScoredSample
from megatron_octo.evaluation.sandbox.levels import Level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.compat import compat_texts
from megatron_octo.evaluation.scoring.judge import Job, Judge
from megatron_octo.evaluation.scoring.self_check import check_language, require

Place = tuple[Task, int, int]  # task, problem, sample


@dataclass
class Tally:
    """What a pass of scoring did."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    compile_cpu_s: float = 0.0
    run_cpu_s: float = 0.0
    wall_s: float = 0.0
    cached: int = 0

    def add(self, verdict: records.Verdict) -> None:
        """Count a verdict; what came from the cache cost nothing now."""
        self.kinds[verdict.kind] += 1
        self.cached += verdict.cached
        if not verdict.cached:
            self.compile_cpu_s += verdict.compile_cpu_s
            self.run_cpu_s += verdict.run_cpu_s

    @property
    def words(self) -> str:
        """Counts of all kinds."""
        return ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in self.kinds.most_common())

    @property
    def seconds(self) -> str:
        """CPU seconds in the sandboxes, and seconds of time."""
        return (
            f"{self.compile_cpu_s + self.run_cpu_s:.1f} CPU seconds in the sandboxes "
            f"(compile {self.compile_cpu_s:.1f}, run {self.run_cpu_s:.1f}), {self.wall_s:.1f} seconds of time"
        )


def _is_judged(scored: ScoredSample | None) -> bool:
    return scored is not None and scored.verdict.kind is not Kind.INFRASTRUCTURE


def _jobs(
    output: Path,
    samples: Mapping[Task, Mapping[tuple[int, int], Sample]],
    done: Mapping[Task, Mapping[tuple[int, int], ScoredSample]],
    rows: Mapping[str, Sequence[Row]],
    compat: bool,
    stop: tuple[str, ...],
    effects: dict[Place, str],
) -> Iterator[Job[Place]]:
    """Cut the answers that have no verdict; what was cut from each goes into ``effects``."""
    by_number = {language: {row.number: row for row in found} for language, found in rows.items()}
    for task, found in samples.items():
        by_problem: dict[int, list[int]] = {}
        for problem, number in sorted(found):
            by_problem.setdefault(problem, []).append(number)
        for problem, numbers in by_problem.items():
            row = by_number[task.language].get(problem)
            if row is None:
                raise OctoError(f"{task.name} has no problem {problem}", where=records.samples_path(output, task.name))
            wanted = {number for number in numbers if not _is_judged(done[task].get((problem, number)))}
            if not wanted:
                continue
            made = [cut(task, row, found[problem, number].text, compat=compat, stop=stop) for number in numbers]
            # Of compat's programs one depends on those before it.
            whole = compat_texts(row, [each.solution for each in made]) if compat else [None] * len(made)
            for number, each, program in zip(numbers, made, whole, strict=True):
                if number in wanted:
                    effects[task, problem, number] = each.what
                    yield Job((task, problem, number), row, each.solution, program)


def _decisive(
    tasks: Sequence[Task], rows: Mapping[str, Sequence[Row]], judge: Judge, level: Level, limits: Limits
) -> dict[str, Any]:
    """Return what decides verdicts, for the header."""
    return {
        "compat": judge.compat,
        "limits": asdict(limits),
        "repairs": repairs.digest(),
        **{f"toolchain.{task.language}": judge.toolchain(task.language).digest for task in tasks},
        **{f"data.{task.language}": data_digest(rows[task.language]) for task in tasks},
        "level": int(level.number),
    }


def check_languages(rows: Mapping[str, Sequence[Row]], judge: Judge) -> None:
    """Refuse to go on if a language's toolchain does not judge rightly.

    Raises:
        OctoError: it is missing, or right solutions fail, or buggy ones pass.
    """
    for name, found in rows.items():
        judge.toolchain(name)
        require(name, check_language(list(found), judge))


def score(
    output: Path,
    tasks: Sequence[Task],
    rows: Mapping[str, Sequence[Row]],
    judge: Judge,
    *,
    level: Level,
    limits: Limits,
    stop: Sequence[str] = (),
) -> Tally:
    """Judge what has no verdict yet; goes on after a kill.

    Args:
        output: directory with ``samples``; ``verdicts`` are written there.
        tasks: to score; descriptions have no verdicts.
        rows: by language.
        judge: for the programs.
        level: of the sandbox, for the header.
        limits: of a program, for the header.
        stop: the prompt's stop words, at which answers are cut.

    Raises:
        OctoError: there are no samples, results of other options lie there, or the machine failed on a program.
    """
    coded = [task for task in tasks if not task.describes]
    records.open_header(output, "scoring", _decisive(coded, rows, judge, level, limits))
    samples = {task: records.read_samples(output, task.name) for task in coded}
    if not any(samples.values()):
        raise OctoError("no samples to score", where=output, hint="evaluate generate writes them there")
    done = {task: records.read_verdicts(output, task.name) for task in coded}
    files = {task: records.Lines(records.verdicts_path(output, task.name)) for task in coded if samples[task]}
    effects: dict[Place, str] = {}
    jobs = _jobs(output, samples, done, rows, judge.compat, tuple(stop), effects)
    total, before = sum(map(len, samples.values())), sum(map(len, done.values()))
    tally, started = Tally(), time.monotonic()
    try:
        with Meter("score", total, before) as meter:
            for judged in judge.all(jobs):
                task, problem, number = judged.job.key
                tally.add(judged.verdict)
                scored = ScoredSample(
                    problem,
                    number,
                    judged.program.digest,
                    judged.toolchain.digest,
                    effects.pop((task, problem, number)),
                    judged.verdict,
                    "" if judged.verdict.kind is Kind.PASSED else judged.job.solution,
                )
                files[task].append(records.verdict_record(scored))
                meter.add(f"{tally.kinds[Kind.PASSED]:,} passed")
    finally:
        for file in files.values():
            file.close()
    tally.wall_s = time.monotonic() - started
    if failed := tally.kinds[Kind.INFRASTRUCTURE]:
        raise OctoError(
            f"{failed} programs could not be judged on this machine",
            where=output / records.VERDICTS,
            hint="their lines say why; the same command tries them again",
        )
    return tally
