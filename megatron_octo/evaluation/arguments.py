"""Options of ``evaluate``."""

import argparse
from pathlib import Path

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
    watch.add_argument("--once", action="store_true", help="score what is there and end")
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
