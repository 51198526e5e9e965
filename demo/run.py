"""Run the whole job from end to end on two CPU cores: ``make demo``.

Makes data from the Python standard library and a tokenizer from the data, then runs the product's own
commands: preprocess, inspect, train, kill, resume, train once more without a kill, convert, verify, evaluate. Each is
printed before it runs. One part loads the result with transformers alone. Exit code 1: a bar at the end is missed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parents[1]
OUT = Path("demo/out")  # from the project's root, as in the recipe
DATA, RUN, REFERENCE, HF = OUT / "data", OUT / "run", OUT / "uninterrupted", OUT / "hf"
SCORES = OUT / "evaluation"
RECIPE = "recipes/demo.yaml"
TRAIN = ("-m", "megatron_octo.train", RECIPE, "--nproc", "2")
KILL_AFTER = 140  # steps, between the checkpoints at 120 and at 160

MIN_FALL = 0.30  # relative fall of the loss
MAX_LOGIT_DIFFERENCE = 1e-4

console = Console(soft_wrap=True)
console.width = max(console.width, 110)  # the width of the closing table where there is no terminal
seconds: dict[str, float] = {}


def timed(title: str, action: Callable[[], Any]) -> Any:
    """Run a part of the demo under a title and keep its seconds."""
    console.rule(f"[bold]{title}")
    start = time.perf_counter()
    result = action()
    seconds[title] = time.perf_counter() - start
    return result


def environment() -> dict[str, str]:
    """Return the environment of every command."""
    # One thread per rank: two ranks share the two cores, and sums do not depend on the machine's core count.
    return dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")


def show(arguments: tuple[str, ...]) -> None:
    """Print a command line."""
    console.print(f"[bold cyan]$ python {' '.join(arguments)}", highlight=False)


def run(*arguments: str) -> None:
    """Run one command line of the product; ends the demo if it fails."""
    show(arguments)
    code = subprocess.run([sys.executable, *arguments], env=environment()).returncode
    if code:
        raise SystemExit(f"demo: the command above exited with {code}")


def metrics(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a run's metrics; the last line may be half written while the run goes on."""
    file = path / "metrics.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def train_and_kill() -> int:
    """Start a training run and end all its processes by SIGKILL; returns the last step it had reported."""
    show(TRAIN)
    process = subprocess.Popen([sys.executable, *TRAIN], env=environment(), start_new_session=True)
    try:
        while not (lines := metrics(RUN)) or lines[-1]["step"] < KILL_AFTER:
            if process.poll() is not None:
                raise SystemExit(f"demo: training ended with {process.returncode} before it could be killed")
            time.sleep(0.05)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    killed_at = int(metrics(RUN)[-1]["step"])
    console.print(f"[bold red]SIGKILL to every process of the run, after step {killed_at}")
    return killed_at


@dataclass
class Comparison:
    """An interrupted and resumed run against an undisturbed one."""

    resumed_at: int
    steps: int
    steps_equal: bool
    tensors: int
    tensors_equal: bool


def compare() -> Comparison:
    """Compare the steps and the last checkpoints of both runs."""
    lines, undisturbed = metrics(RUN), metrics(REFERENCE)
    expected = {line["step"]: (line["loss"], line["grad_norm"]) for line in undisturbed}
    # The steps between the last checkpoint and the kill were done twice; both results must match.
    found = [(line["step"], (line["loss"], line["grad_norm"])) for line in lines]
    resumed = min(line["step"] for line in lines if line["attempt"] == lines[-1]["attempt"])
    ours, theirs = last_tensors(RUN), last_tensors(REFERENCE)
    return Comparison(
        resumed_at=resumed - 1,
        steps=len(expected),
        steps_equal=dict(found).keys() == expected.keys() and all(expected[step] == pair for step, pair in found),
        tensors=len(theirs),
        tensors_equal=bool(theirs) and ours == theirs,
    )


def last_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the bytes of every tensor of a run's last checkpoint: weights, optimizer, random states."""
    from safetensors.numpy import load_file

    folder = path / "checkpoints" / (path / "checkpoints" / "latest").read_text().strip()
    tensors = ((file.name, load_file(file)) for file in folder.glob("*.safetensors"))
    return {
        f"{name}/{key}": (str(array.dtype), array.shape, array.tobytes())
        for name, arrays in tensors
        for key, array in arrays.items()
    }


def complete() -> None:
    """Load the converted model with transformers and generate an answer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()

    torch.set_num_threads(2)
    model = AutoModelForCausalLM.from_pretrained(HF)
    tokenizer = AutoTokenizer.from_pretrained(HF)
    prompt = (
        "Question: Write a Python function `close(self)` to solve the following problem:\nClose the file.\n\nAnswer:\n"
    )
    tokens = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**tokens, max_new_tokens=64, do_sample=False, repetition_penalty=1.2)[0]
    start = tokens["input_ids"].shape[1]
    console.print(f"{type(model).__name__}, {model.num_parameters():,} parameters")
    console.print(prompt, style="dim", end="", markup=False, highlight=False)
    console.print(tokenizer.decode(answer[start:], skip_special_tokens=True), markup=False, highlight=False)


def evaluate() -> str:
    """Score the model on five problems, and the right solutions; returns a line for the report."""
    from megatron_octo.evaluation.sandbox.levels import Number, probe_level

    problems = OUT / "problems"
    run("demo/make_problems.py", str(problems))
    level = probe_level()
    if level.number < Number.NAMESPACES:
        return f"not run, no sandbox here: {'; '.join(level.missing)}"
    command, tasks = ("-m", "megatron_octo.evaluate"), ("--tasks", "humanevalsynthesize-python")
    run(*command, "score", "--solutions", "canonical", "--base", "prompt", *tasks, "--data", str(problems))
    how = ("--prompt", "octocoder", "--max-length", "256", "--device", "cpu")
    run(*command, "run", "--model", str(HF), *tasks, *how, "--data", str(problems), "--output", str(SCORES))
    score = json.loads((SCORES / "scores.json").read_text())["tasks"]["humanevalsynthesize-python"]
    return f"{score['pass@1']['value']:.0f} % of {score['problems']} problems (right solutions: all)"


def main() -> int:
    """Run all parts; returns the exit code."""
    os.chdir(PROJECT)
    shutil.rmtree(OUT, ignore_errors=True)
    pairs, tokenizer, prefix, verdict = (
        str(DATA / n) for n in ("pairs.jsonl", "tokenizer.json", "pairs", "verify.json")
    )

    timed("data", lambda: run("demo/make_data.py", pairs))
    timed("tokenizer", lambda: run("demo/train_tokenizer.py", pairs, tokenizer))
    timed(
        "preprocess",
        lambda: run(
            *("-m", "megatron_octo.preprocess", "--input", pairs, "--output-prefix", prefix),
            *("--tokenizer", tokenizer, "--format", "finetune", "--workers", "2"),
        ),
    )
    timed("inspect", lambda: run("-m", "megatron_octo.inspect", prefix, "--sample", "1"))
    killed_at = timed("train, and kill", train_and_kill)
    timed("the same command resumes", lambda: run(*TRAIN))
    timed("the same, uninterrupted", lambda: run(*TRAIN, f"run_dir={REFERENCE}"))
    timed("to Hugging Face", lambda: run("-m", "megatron_octo.convert", "to-hf", str(RUN), str(HF)))
    timed("verify", lambda: run("-m", "megatron_octo.convert", "verify", str(RUN), str(HF), "--json", verdict))
    timed("transformers", complete)
    scored = timed("evaluate", evaluate)
    return report(killed_at, compare(), json.loads(Path(verdict).read_text())["max_abs"], scored)


def report(killed_at: int, equal: Comparison, logit_difference: float, scored: str) -> int:
    """Print figures and bars; returns the exit code."""
    lines = metrics(REFERENCE)
    first, last = lines[0]["loss"], sum(line["loss"] for line in lines[-10:]) / 10
    fall = 1 - last / first
    fill = sum(line["fill"] for line in lines) / len(lines)
    bars = {
        "loss": fall >= MIN_FALL,
        "steps": equal.steps_equal,
        "tensors": equal.tensors_equal,
        "killed": equal.resumed_at < killed_at < lines[-1]["step"],
        "logits": logit_difference <= MAX_LOGIT_DIFFERENCE,
    }

    def mark(*names: str) -> str:
        return "[green]ok" if all(bars[name] for name in names) else "[bold red]MISSED"

    table = Table("", "", "", title="demo", title_style="bold", show_header=False)
    table.add_row("packing fill", f"{fill:.2%} of all positions hold a token of a document", "")
    table.add_row("loss, first -> mean of the last 10", f"{first:.3f} -> {last:.3f}", "")
    table.add_row(f"  fall (at least {MIN_FALL:.0%})", f"{fall:.1%}", mark("loss"))
    table.add_row("killed after step / resumed at", f"{killed_at} / {equal.resumed_at}", mark("killed"))
    table.add_row(
        "resumed == uninterrupted, to the bit",
        f"loss and gradient norm of {equal.steps} steps",
        mark("steps"),
    )
    table.add_row("", f"{equal.tensors} tensors of the last checkpoint", mark("tensors"))
    table.add_row("max logit difference to Hugging Face", f"{logit_difference:.2g}", mark("logits"))
    table.add_row("HumanEvalPack-like problems, pass@1", scored, "")
    parts = ", ".join(f"{title} {spent:.0f}" for title, spent in seconds.items())
    table.add_row(f"seconds: {sum(seconds.values()):.0f}", parts, "")
    table.add_row("paths", f"run {RUN}, Hugging Face {HF}, dataset {DATA}/pairs.*", "")
    console.rule()
    console.print(table)
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
