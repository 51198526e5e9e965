# bench: cpu gpu
"""What a save costs the loop, and how long a resume takes, through the product's own command.

    python -m benchmarks.async_save recipes/santacoderpack.yaml --nproc 1 --steps 60 --interval 20

Trains twice on packed random documents, with and without ``checkpoint.asynchronous``, and takes the time of every line
that the run prints. The stall of a save is by how much the steps from its start to its commit took longer than the
median step without a save in flight; it is given in seconds and in such steps. So is, in seconds, what the steps after
the first one lose, in which memory for the copies is taken. Then the asynchronous run loses its last checkpoint and is
started again: seconds from the start of the process to the end of its first step, and whether loss, gradient norm and
the last checkpoint's files are to the last bit those of the run that was not stopped (they are to be with
``system.deterministic=true``). One JSON object is printed and appended to ``--output``.
"""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.corpus import overrides_on
from benchmarks.machine import keep, machine
from benchmarks.training import bitwise, corpus_for, outcome, parser_of, train_command
from megatron_octo.checkpoint import directory as layout
from megatron_octo.recipe.loading import load_recipe

WARM_UP = 5
_STEP = re.compile(r"^step (\d+)/")
SAVED = re.compile(r"^saved .*step-(\d+) in ([\d.]+) s; training waited ([\d.]+) s")


def timed_lines(command: list[str], end: Callable[[str], Any] = lambda line: None) -> list[tuple[float, str]]:
    """Run a command to its end, or kill it with all that it started at the first line at which ``end`` says so.

    Returns:
        Its lines, with the seconds since its start at which they came; they go to the standard error, too.

    Raises:
        RuntimeError: it failed; the message holds the end of its output.
    """
    lines, start = [], time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append((time.perf_counter() - start, line.rstrip("\n")))
            print(f"{lines[-1][0]:7.1f} {lines[-1][1]}", file=sys.stderr, flush=True)
            if end(line):
                os.killpg(process.pid, signal.SIGKILL)
                return lines
    if process.returncode:
        raise RuntimeError("\n".join(line for _, line in lines[-50:]))
    return lines


def examine(lines: list[tuple[float, str]]) -> dict[str, Any]:
    """Steps with and without a save in flight, and what each save cost."""
    ends: dict[int, float] = {}
    saves: list[dict[str, Any]] = []
    for seconds, line in lines:
        if match := _STEP.match(line):
            ends[int(match[1])] = seconds
        elif match := SAVED.match(line):
            saves.append(
                {
                    "step": int(match[1]),
                    "seconds": float(match[2]),
                    "copy_s": float(match[3]),
                    "end": max(ends),
                }
            )
    first, last = min(ends), max(ends)
    lengths = {step: ends[step] - ends[step - 1] for step in range(first + 1, last + 1)}
    busy = {step for save in saves for step in range(save["step"] + 1, save["end"] + 2)}
    quiet = [seconds for step, seconds in lengths.items() if step not in busy and step > first + WARM_UP]
    median = statistics.median(quiet)
    for save in saves:
        # The step during which the commit was noticed is counted in; the last save has no steps after it.
        steps = [lengths[step] for step in range(save["step"] + 1, save.pop("end") + 2) if step in lengths]
        save["steps_in_flight"] = len(steps)
        save["stall_s"] = round(sum(steps) - len(steps) * median, 3) if steps else None
        save["stall_steps"] = round(save["stall_s"] / median, 2) if steps else None
        save["longest_step"] = round(max(steps) / median, 2) if steps else None
    return {"step_s": round(median, 4), "quiet_steps": len(quiet), "saves": saves}


def early_stall(lines: list[tuple[float, str]], step_s: float) -> float:
    """By how many seconds the steps after the first one were longer than others, in all."""
    ends = [seconds for seconds, line in lines if _STEP.match(line)][: WARM_UP + 1]
    return round(ends[-1] - ends[0] - (len(ends) - 1) * step_s, 3)


def first_moments(lines: list[tuple[float, str]]) -> dict[str, float]:
    """Seconds from the process's start to the words that mark its progress."""
    marks = {"imported": "# resolved recipe", "resumed": "resuming at step", "first_step": "step "}
    return {
        name: round(next(seconds for seconds, line in lines if line.startswith(mark)), 2)
        for name, mark in marks.items()
    }


def benchmark(
    recipe_path: str,
    nproc: int,
    steps: int,
    interval: int,
    place: str | None,
    overrides: list[str],
    ways: tuple[bool, ...] = (False, True),
) -> Any:
    """Train with either way of saving, then resume."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        recipe = load_recipe(recipe_path, overrides)
        corpus = corpus_for(Path(folder) / "random", recipe, steps)
        changed = [
            *overrides,
            *overrides_on(corpus),
            *(f"checkpoint.interval={interval}", "checkpoint.keep=2", "schedule.warmup_fraction=null"),
            *("schedule.warmup_steps=0", f"schedule.decay_steps={2 * steps}"),
        ]
        command = train_command(recipe_path, nproc, changed)
        found = {}
        for asynchronous in ways:
            name = "asynchronous" if asynchronous else "waiting"
            options = [f"run_dir={folder}/{name}", f"checkpoint.asynchronous={str(asynchronous).lower()}"]
            command_line = [*command, *options, f"train.steps={steps}"]
            lines = timed_lines(command_line)
            found[name] = examine(lines)
            found[name]["early_stall_s"] = early_stall(lines, found[name]["step_s"])
            if not asynchronous:
                shutil.rmtree(f"{folder}/{name}")  # it may not fit twice
        run = Path(folder) / "asynchronous"
        whole = outcome(run, steps)
        last = run / layout.CHECKPOINTS / layout.step_name(steps)
        size = sum(path.stat().st_size for path in last.iterdir())
        shutil.rmtree(last)
        lines = timed_lines(command_line)
        resumed = outcome(run, steps)
    return {
        **{"recipe": recipe_path, "overrides": overrides, "ranks": nproc},
        **{"steps": steps, "interval": interval, "checkpoint_gb": round(size / 1e9, 3), **found},
        "resume_s": first_moments(lines),
        "resume_early_stall_s": early_stall(lines, found["asynchronous"]["step_s"]),
        **bitwise(whole, resumed),
        "machine": machine(),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--interval", type=int, default=20, help="steps between saves")
    parser.add_argument("--only-asynchronous", action="store_true", help="no run whose saves wait")
    parser.add_argument("--place", help="folder on the disk to save to (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    ways = (True,) if args.only_asynchronous else (False, True)
    found = benchmark(args.recipe, args.nproc, args.steps, args.interval, args.place, args.overrides, ways)
    keep(args.output, found)
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
