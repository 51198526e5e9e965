"""A whole scoring: of a folder with samples, or of answers that no model wrote."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.records import Report, ignore
from megatron_octo.evaluation.benchmark.rows import Row, data_digest, read_rows
from megatron_octo.evaluation.benchmark.tasks import Task, all_tasks, in_order
from megatron_octo.evaluation.languages import language
from megatron_octo.evaluation.records import (
    Judged,
    Key,
    Sample,
    append,
    open_header,
    read_header,
    read_samples,
    read_verdicts,
    samples_file,
    verdicts_file,
)
from megatron_octo.evaluation.sandbox.levels import probe_level, refuse_below
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root
from megatron_octo.evaluation.scoring.answers import KNOWN, file_answers, known_answers
from megatron_octo.evaluation.scoring.cache import HARNESS, VerdictCache
from megatron_octo.evaluation.scoring.compat import CompatPrograms, compat_language
from megatron_octo.evaluation.scoring.progress import Meter
from megatron_octo.evaluation.scoring.score import Scorer, Work
from megatron_octo.evaluation.scoring.self_check import refuse_bad, self_check

type Rows = Mapping[str, Sequence[Row]]


@dataclass(frozen=True)
class Settings:
    """How to score.

    Attributes:
        limits: of each program.
        jobs: sandboxes at once.
        cache: whether verdicts of earlier runs count.
        compat: as the original harness, with its faults.
        unsafe: run programs without a sandbox where there is none.
        check: run known solutions before anything counts.
        quiet: show no progress.
        report: takes a line about a failure that is retried.
    """

    limits: Limits = Limits()
    jobs: int = len(os.sched_getaffinity(0))
    cache: bool = True
    compat: bool = False
    unsafe: bool = False
    check: bool = True
    quiet: bool = False
    report: Report = ignore


def read_data(data: str, languages: Sequence[str], *, compat: bool, limit: int | None = None) -> dict[str, list[Row]]:
    """Read the rows of languages; those of compat mode are as published.

    Raises:
        OctoError: see :func:`read_rows`.
    """
    return {name: read_rows(data, name, repaired=not compat)[:limit] for name in languages}


@contextlib.contextmanager
def open_scorer(settings: Settings, rows: Rows) -> Iterator[Scorer]:
    """Open sandboxes, toolchains and cache, and check the languages of ``rows``.

    Raises:
        OctoError: no sandbox, or a language that this machine cannot score.
    """
    level = probe_level()
    refuse_below(level, settings.unsafe)
    root = cache_root()
    make = compat_language if settings.compat else language
    with contextlib.ExitStack() as stack:
        languages = {name: make(name, root) for name in rows}
        for each in languages.values():
            stack.callback(each.close)
        verdicts = stack.enter_context(VerdictCache(root / "verdicts.sqlite" if settings.cache else None, settings.report))
        scorer = Scorer(languages, level, settings.limits, settings.jobs, root / "slots", verdicts, report=settings.report)
        if settings.compat:
            scorer.assemble = CompatPrograms().assemble
        if settings.check:
            refuse_bad(self_check(scorer, rows))
        yield scorer


def score_answers(source: str, base: str, rows: Rows, settings: Settings, output: Path | None = None) -> Meter:
    """Score known answers (``canonical``, ``buggy``, ``empty``) or those of a file.

    Args:
        source: name or file.
        base: ``declaration`` or ``prompt``: what the answers continue.
        rows: by language.
        settings: of the scoring.
        output: keep samples and verdicts in this folder, as if a model had answered.

    Returns:
        The counts.
    """
    works = known_answers(source, base, rows) if source in KNOWN else file_answers(Path(source), base, rows)
    if output is not None:
        about = {"solutions": source, "base": base, "compat": settings.compat}
        open_header(output, {"run": about | {"problems": {}, "stop": []}})
        for task in in_order({work.task for work in works}):
            place = samples_file(output, task.name)
            known = read_samples(place)
            for work in works:
                if work.task == task and work.key not in known:
                    append(place, Sample(*work.key, work.text, 0, "eos", ""))
    with open_scorer(settings, rows) as scorer:
        return _score(scorer, works, settings, output)


def score_folder(output: Path, data: str | None, settings: Settings, tasks: Sequence[Task] | None = None) -> Meter:
    """Score the samples of a folder; goes on where an earlier scoring stopped.

    Args:
        output: folder of the evaluation.
        data: place of the rows; None: as in the header.
        settings: of the scoring.
        tasks: None: all that have samples.

    Returns:
        The counts.

    Raises:
        OctoError: no samples, other data than those of the samples, or a scoring that was begun with other settings.
    """
    header = read_header(output)
    run, about = header.get("run", {}), header.get("about", {})
    chosen = tasks or all_tasks()
    samples = {task: read_samples(samples_file(output, task.name)) for task in chosen if not task.describes}
    samples = {task: found for task, found in samples.items() if found}
    if not samples:
        raise OctoError("no samples to score", where=output, hint="evaluate generate; descriptions are not scored")
    place = data or about.get("data")
    if not place:
        raise OctoError("the header does not name the data", where=output, hint="--data DIR")
    languages = list(dict.fromkeys(task.language for task in samples))
    check_data(place, languages, run.get("data", {}))
    rows = read_data(place, languages, compat=settings.compat)
    numbered = {(row.language, row.number): row for found in rows.values() for row in found}
    stop = tuple(run.get("stop", ()))
    works = [_work(task, sample, numbered, stop) for task, found in samples.items() for _, sample in sorted(found.items())]
    with open_scorer(settings, rows) as scorer:
        return _score(scorer, works, settings, output)


def check_data(place: str, languages: Sequence[str], digests: Mapping[str, str]) -> None:
    """Refuse other rows than those whose digests are given.

    Raises:
        OctoError: they differ.
    """
    for name in languages:
        if name in digests and digests[name] != data_digest(read_rows(place, name, repaired=False)):
            raise OctoError(
                f"the samples were made from other rows of {name}", where=place, hint="give --data as in generation"
            )


def _work(task: Task, sample: Sample, rows: Mapping[tuple[str, int], Row], stop: tuple[str, ...]) -> Work:
    row = rows.get((task.language, sample.problem))
    if row is None:
        raise OctoError(f"no problem {sample.problem} in the data", where=task.name, hint="give --data as in generation")
    return Work(task, row, sample.sample, sample.text, stop)


def _score(scorer: Scorer, works: Sequence[Work], settings: Settings, output: Path | None) -> Meter:
    known: dict[Key, Judged] = {}
    record: Callable[[Judged], None] = ignore_judged
    if output is not None:
        open_header(output, {"scoring": _described(scorer, settings), "about": _about(scorer)})
        for task in {work.task for work in works}:
            known |= read_verdicts(verdicts_file(output, task.name))
        folder = output

        def record(judged: Judged) -> None:
            append(verdicts_file(folder, judged.task), judged)

    if isinstance(programs := getattr(scorer.assemble, "__self__", None), CompatPrograms):
        programs.take(works)
    with Meter(len(works), quiet=settings.quiet) as meter:
        scorer.score(works, known, record, meter)
    return meter


def ignore_judged(judged: Judged) -> None:
    """Keep nothing of a verdict."""


def _described(scorer: Scorer, settings: Settings) -> dict[str, Any]:
    found = {name: each.toolchain() for name, each in scorer.languages.items()}
    return {
        "compat": settings.compat,
        "harness": HARNESS,
        "limits": asdict(settings.limits),
        "toolchains": {name: {"version": each.version, "digest": each.digest} for name, each in found.items()},
    }


def _about(scorer: Scorer) -> dict[str, Any]:
    return {"score_host": platform.node(), "sandbox": scorer.level.name, "jobs": scorer.jobs}
