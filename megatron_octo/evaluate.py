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

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.benchmark.tasks import Task
    from megatron_octo.evaluation.sandbox.levels import Level
    from megatron_octo.evaluation.scoring.judge import Judge

EPILOG = """exit codes: 0 done; 2 a mistake to fix; 75 interrupted, the same command goes on.
docs/evaluation.md describes the tasks, the sandbox, and the files in --output."""
_HUB = "hf:bigcode/humanevalpack"


def build_parser() -> argparse.ArgumentParser:
    """Return the options of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.evaluate",
        description="Score a model on HumanEvalPack: 30 tasks in six languages, programs run in a sandbox.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, purpose: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=purpose, description=purpose)

    both = command("run", "generate, score and report")
    _add_generation(both)
    _add_scoring(both)
    _add_generation(command("generate", "sample answers of a model"))
    score = command("score", "run the samples' programs in the sandbox")
    _add_where(score, output=False)
    score.add_argument("--output", type=Path, metavar="DIR", help="directory with samples; verdicts are written there")
    known = "score answers that no model wrote: canonical, buggy or empty, or lines of JSON with task_id and completion"
    score.add_argument("--solutions", metavar="NAME|FILE", help=known)
    score.add_argument("--base", choices=("declaration", "prompt", "both"), default="both", help="of --solutions")
    _add_scoring(score)
    merge = command("merge", "put the parts of several machines together")
    merge.add_argument("parts", nargs="+", type=Path, metavar="PART")
    merge.add_argument("--output", type=Path, required=True, metavar="DIR", help="to make, or to add to")
    merge.add_argument("--expect", type=_positive, metavar="N", help="problems per task; missing ones are an error")
    report = command("report", "write scores.json, report.md and report.html")
    report.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="an evaluation, or two to compare")
    report.add_argument("--data", metavar="DIR|hf:NAME", help="rows of HumanEvalPack: the page then shows prompts")
    doctor = command("doctor", "check sandbox and toolchains by using them")
    doctor.add_argument("--data", default=None, metavar="DIR", help="rows of HumanEvalPack, for the check of languages")
    prepare = command("prepare", "rebuild HumanEvalPack from its sources")
    prepare.add_argument("sources", type=Path, metavar="SOURCES", help="folder humaneval-x of OctoPack's repository")
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="to make, or to add to")
    watch = command("watch", "score each saved model of a run as it appears")
    watch.add_argument("run", type=Path, metavar="RUN")
    _add_generation(watch, model=False)
    _add_scoring(watch)
    return parser


def _add_where(parser: argparse.ArgumentParser, output: bool = True) -> None:
    add = parser.add_argument
    add("--tasks", default="all", metavar="LIST", help="names, patterns (humanevalfix*-python) or all, with commas")
    add("--data", default=_HUB, metavar="DIR|hf:NAME", help="rows of HumanEvalPack (default: %(default)s)")
    add("--limit", type=_positive, metavar="K", help="the first K problems of each task")
    add("--part", type=_part, metavar="I/N", help="every Nth problem, from the Ith on (0/4 to 3/4), for N machines")
    if output:
        add("--output", type=Path, required=True, metavar="DIR", help="directory of the evaluation")


def _add_generation(parser: argparse.ArgumentParser, model: bool = True) -> None:
    add = parser.add_argument
    if model:
        add("--model", type=Path, required=True, metavar="HF_DIR|RUN|CHECKPOINT", help="what answers")
    _add_where(parser)
    add("--prompt", required=True, metavar="NAME|FILE", help="octocoder, starchat, chat, ... or a YAML file")
    add("--n-samples", type=_positive, default=1, metavar="N", help="per problem (OctoPack: 20; default: 1)")
    add("--temperature", type=float, default=0.0, metavar="T", help="0: greedy (OctoPack: 0.2; default: 0)")
    add("--top-p", type=float, default=1.0, metavar="P", help="nucleus (OctoPack: 0.95; default: 1)")
    add("--max-length", type=_positive, default=2048, metavar="N", help="tokens of prompt and answer together")
    add("--batch-size", type=_positive, metavar="N", help="answers at once (default: by memory)")
    add("--seed", type=int, default=0, metavar="N", help="of the samples' random streams (default: 0)")
    add("--precision", choices=("bf16", "fp16", "fp32"), help="default: bf16 on a GPU, fp32 on a CPU")
    add("--device", choices=("cpu", "cuda"), help="default: all GPUs, or the CPU where there is none")


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cpu-seconds", type=float, default=5.0, metavar="S", help="limit of a program (default: 5)")
    add("--jobs", type=_positive, metavar="N", help="programs at once (default: one per core)")
    add("--cache", type=Path, metavar="DIR", help="what is built once, and verdicts (default: by user)")
    add("--no-verdict-cache", action="store_true", help="run every program")
    add("--compat", action="store_true", help="score as OctoPack's paper did, with the faults of its harness")
    add("--unsafe", action="store_true", help="run programs of a model as this user where there is no sandbox")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1")
    return int(first), int(count)


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

    return watch(arguments)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
