"""The lines that a training prints, with the time of each, and the cost of saves and starts that follows from them."""

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Lines = list[tuple[float, str]]  # seconds since the start of the process, text
WARM_UP = 5
_STEP = re.compile(r"^step (\d+)/")
SAVED = re.compile(r"^saved .*step-(\d+) in ([\d.]+) s; training waited ([\d.]+) s")


def timed_lines(command: list[str], end: Callable[[str], Any] = lambda line: None) -> Lines:
    """Run a command to its end, or kill it with all that it started at the first line for which ``end`` is true.

    Returns:
        Its lines, with the seconds since its start at which they came; they are copied to the standard error.

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


def cost_of_saves(lines: Lines) -> dict[str, Any]:
    """Return the median step without a save in flight, and the cost of each save in seconds and in such steps."""
    ends: dict[int, float] = {}
    saves: list[dict[str, Any]] = []
    for seconds, line in lines:
        if match := _STEP.match(line):
            ends[int(match[1])] = seconds
        elif match := SAVED.match(line):
            seconds_and_copy: dict[str, Any] = {"seconds": float(match[2]), "copy_s": float(match[3])}
            saves.append({"step": int(match[1]), **seconds_and_copy, "end": max(ends)})
    first, last = min(ends), max(ends)
    lengths = {step: ends[step] - ends[step - 1] for step in range(first + 1, last + 1)}
    busy = {step for save in saves for step in range(save["step"] + 1, save["end"] + 2)}
    quiet = [seconds for step, seconds in lengths.items() if step not in busy and step > first + WARM_UP]
    median = statistics.median(quiet)
    for save in saves:
        # The step during which the commit was noticed is counted; the last save has no steps after it.
        steps = [lengths[step] for step in range(save["step"] + 1, save.pop("end") + 2) if step in lengths]
        save["steps_in_flight"] = len(steps)
        save["stall_s"] = round(sum(steps) - len(steps) * median, 3) if steps else None
        save["stall_steps"] = round(save["stall_s"] / median, 2) if steps else None
        save["longest_step"] = round(max(steps) / median, 2) if steps else None
    return {"step_s": round(median, 4), "quiet_steps": len(quiet), "saves": saves}


def early_stall(lines: Lines, step_s: float) -> float:
    """Return the seconds by which the steps after the first one exceed as many median steps."""
    ends = [seconds for seconds, line in lines if _STEP.match(line)][: WARM_UP + 1]
    return round(ends[-1] - ends[0] - (len(ends) - 1) * step_s, 3)


def first_moments(lines: Lines) -> dict[str, float]:
    """Return the seconds from the start of the process to the lines that mark its progress."""
    marks = {"imported": "not the defaults:", "resumed": "resuming at step", "first_step": "step "}
    return {
        name: round(next(seconds for seconds, line in lines if line.startswith(mark)), 2)
        for name, mark in marks.items()
    }
