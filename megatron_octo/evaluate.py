"""``python -m megatron_octo.evaluate run | generate | score | merge | report | doctor | prepare | watch``."""

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import REQUEUE, OctoError, run_command
from megatron_octo.evaluation.arguments import build_parser as build_parser  # submit checks its arguments with it

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.benchmark.tasks import Task
    from megatron_octo.evaluation.sandbox.levels import Level
    from megatron_octo.evaluation.scoring.judge import Judge


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    commands = {
        "run": _run,
        "generate": _generate,
        "score": _score,
        "merge": _merge,
        "report": _report,
        "doctor": _doctor,
        "prepare": _prepare,
        "watch": _watch,
    }
    try:
        with _ended_by_signals():
            return commands[arguments.command](arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return REQUEUE


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End a job that the scheduler stops as Ctrl-C does: what is done is kept, and the exit code asks for a restart."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rows(arguments: argparse.Namespace, tasks: "Sequence[Task]") -> "dict[str, list[Row]]":
    """Return the wanted rows of the tasks' languages."""
    from megatron_octo.evaluation.benchmark.rows import read_rows

    names = dict.fromkeys(task.language for task in tasks)
    rows = {name: read_rows(arguments.data, name, repaired=not getattr(arguments, "compat", False)) for name in names}
    if arguments.limit:
        rows = {name: found[: arguments.limit] for name, found in rows.items()}
    return rows


def _generate(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.benchmark.tasks import parse_tasks
    from megatron_octo.evaluation.generation.generate import Options, generate

    tasks = parse_tasks(arguments.tasks)
    options = Options(
        prompt=arguments.prompt,
        samples=arguments.n_samples,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_length=arguments.max_length,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
        device=arguments.device,
        part=arguments.part or (0, 1),
    )
    generate(arguments.output, tasks, _rows(arguments, tasks), arguments.model, options)
    return 0


def _judge(arguments: argparse.Namespace) -> "tuple[Level, Judge]":
    from megatron_octo.evaluation.sandbox.levels import probe_level, refuse_below
    from megatron_octo.evaluation.sandbox.limits import Limits
    from megatron_octo.evaluation.sandbox.supervisor import cache_root
    from megatron_octo.evaluation.scoring.cache import VerdictCache
    from megatron_octo.evaluation.scoring.judge import Judge

    level = probe_level()
    refuse_below(level, arguments.unsafe)
    cache = arguments.cache or cache_root()
    verdicts = VerdictCache(None if arguments.no_verdict_cache else cache / "verdicts.sqlite")
    limits = Limits(cpu_s=arguments.cpu_seconds)
    return level, Judge(level, cache, verdicts, limits, arguments.jobs, compat=arguments.compat)


def _score(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.benchmark.tasks import parse_tasks
    from megatron_octo.evaluation.sandbox.limits import Limits
    from megatron_octo.evaluation.scoring import score as scoring

    tasks = [task for task in parse_tasks(arguments.tasks) if not task.describes]
    if arguments.solutions:
        return _score_known(arguments, tasks)
    if arguments.output is None:
        raise OctoError("--output or --solutions is needed", where="evaluate score")
    tasks = [task for task in tasks if _has_samples(arguments.output, task)]
    rows = _rows(arguments, tasks)
    level, judge = _judge(arguments)
    with judge:
        scoring.check_languages(rows, judge)
        limits = Limits(cpu_s=arguments.cpu_seconds)
        tally = scoring.score(
            arguments.output, tasks, rows, judge, level=level, limits=limits, stop=_stop_words(arguments.output)
        )
    print(f"{tally.words or 'nothing new'}; {tally.cached:,} from the cache; {tally.seconds}")
    return 0


def _score_known(arguments: argparse.Namespace, tasks: "Sequence[Task]") -> int:
    """Score solutions of the benchmark itself; exit code 1 if one does not end as it should."""
    from megatron_octo.evaluation.scoring.known import BASES, Totals, score_known

    rows, totals = _rows(arguments, tasks), Totals()
    bases = tuple(BASES) if arguments.base == "both" else (arguments.base,)
    _, judge = _judge(arguments)
    with judge:
        for line in score_known(arguments.solutions, rows, bases, judge, totals):
            print(line, flush=True)
    return 1 if totals.faults else 0


def _has_samples(output: Path, task: "Task") -> bool:
    from megatron_octo.evaluation.records import samples_path

    return samples_path(output, task.name).exists()


def _stop_words(output: Path) -> tuple[str, ...]:
    from megatron_octo.evaluation.records import read_header

    return tuple(read_header(output).get("generation", {}).get("stop", ()))


def _run(arguments: argparse.Namespace) -> int:
    arguments.solutions = None
    _generate(arguments)
    _score(arguments)
    return _report(argparse.Namespace(directories=[arguments.output], data=arguments.data))


def _merge(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.results.merge import merge

    merged = merge(arguments.parts, arguments.output, arguments.expect)
    for name, count in merged.samples.items():
        print(f"{name}: {count:,} samples, {merged.verdicts.get(name, 0):,} verdicts")
    if merged.missing:
        lines = [f"{name}: {', '.join(map(str, missing))}" for name, missing in merged.missing.items()]
        raise OctoError("problems without samples: " + "; ".join(lines), where=arguments.output)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.results.report import write_reports

    output, *others = arguments.directories
    if len(others) > 1:
        raise OctoError("a report compares two evaluations at most", where="evaluate report")
    print("\n".join(write_reports(output, others[0] if others else None, arguments.data)))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.scoring.doctor import examine

    lines, good = examine(arguments.data)
    print("\n".join(lines))
    return 0 if good else 1


def _prepare(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.benchmark.prepare import prepare

    for made in prepare(arguments.sources, arguments.output):
        print(f"{made.path}: {made.rows} rows, {made.digest}: {made.note}")
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from megatron_octo.evaluation.watch import watch

    def evaluate(model: Path, output: Path) -> None:
        _run(argparse.Namespace(**{**vars(arguments), "model": model, "output": output}))

    return watch(arguments.run, arguments.output, evaluate, once=arguments.once)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
