"""Kill ``evaluate run`` at random moments: the same samples and verdicts, and nothing that was finished is done again.

    python -m benchmarks.evaluation_kills [--kills 20] [--seed 0]

A tiny model with random weights answers made problems, whose programs run in the sandbox. Every start reports the
samples and programs that it begins and finishes. Exit code 1: a file differs from that of a start that was left alone,
or something was begun after it had been finished.
"""
# bench: cpu

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from megatron_octo.evaluation import records
from tests.evaluation.generation.tiny import write_model
from tests.evaluation.small import write_benchmark

TASKS = ("humanevalfixtests-python", "humanevalexplaindescribe-python", "humanevalexplainsynthesize-python")
# Reports what is begun and finished, a line each, in one write.
REPORTING = """
import os, sys
from megatron_octo.evaluate import main
from megatron_octo.evaluation import records
from megatron_octo.evaluation.generation.engine import Engine
from megatron_octo.evaluation.scoring.judge import Judge

log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def tell(*words):
    os.write(log, (" ".join(map(str, words)) + "\\n").encode())

read = Engine._read_prompts
def read_prompts(self, requests):
    for request in requests:
        tell("begin", "sample", *request.key)
    return read(self, requests)
Engine._read_prompts = read_prompts

one = Judge.one
def judged(self, row, solution, box, program=None):
    made = program or self.language(row.language).program(row, solution)
    tell("begin", "program", made.digest)
    found = one(self, row, solution, box, made)
    tell("end", "program", made.digest)
    return found
Judge.one = judged

opened = records.Lines.__init__
def opening(self, path):
    opened(self, path)
    self.task = path.stem
records.Lines.__init__ = opening

append = records.Lines.append
def appended(self, record):
    append(self, record)
    if "stop" in record:
        tell("end", "sample", self.task, record["problem"], record["sample"])
records.Lines.append = appended
sys.exit(main(sys.argv[2:]))
"""


def contents(output: Path) -> dict[str, list[str]]:
    """Return the sorted lines of all samples, and the verdicts without their seconds."""
    found = {path.name: sorted(path.read_text().splitlines()) for path in (output / records.SAMPLES).iterdir()}
    for task in TASKS:
        verdicts = records.read_verdicts(output, task)
        found[f"verdicts {task}"] = [
            f"{key} {scored.program} {scored.verdict.kind}" for key, scored in sorted(verdicts.items())
        ]
    return found


def repeated(log: Path) -> list[str]:
    """Return the samples that were begun after they had been finished."""
    finished: set[str] = set()
    again = []
    for line in log.read_text().splitlines():
        kind, _, what = line.partition(" ")
        if kind == "end" and what.startswith("sample"):
            finished.add(what)
        elif what in finished:
            again.append(what)
    return again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder / "model", "gpt_bigcode")
        write_benchmark(folder / "data")
        options: dict[str, object] = {
            "model": folder / "model",
            "data": folder / "data",
            "tasks": ",".join(TASKS),
            "device": "cpu",
            "prompt": "octocoder",
            "n-samples": 12,
            "temperature": 0.8,
            "max-length": 420,
            "batch-size": 3,
            "jobs": 2,
        }
        words = [f"--{name}={value}" for name, value in options.items()]

        def command(output: str) -> list[str]:
            start = [sys.executable, "-c", REPORTING, str(folder / f"{output}.log"), "run", *words]
            return [*start, "--no-verdict-cache", f"--output={folder / output}"]

        started = time.monotonic()
        subprocess.run(command("whole"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        whole = time.monotonic() - started
        moments, kills = random.Random(arguments.seed), 0
        begin = 4.0  # seconds in which nothing but imports happens
        longest = max(1.0, 3 * (whole - begin) / arguments.kills)
        outputs = ["killed-1"]
        while kills < arguments.kills:
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command(outputs[-1]), start_new_session=True, stdout=quiet, stderr=quiet)
            try:
                process.wait(begin + moments.uniform(0.0, longest))
                outputs.append(f"killed-{len(outputs) + 1}")  # that one is finished
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
        subprocess.run(command(outputs[-1]), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = contents(folder / "whole")
        equal = all(contents(folder / output) == wanted for output in outputs)
        again = [each for output in outputs for each in repeated(folder / f"{output}.log")]
        count = sum(map(len, wanted.values()))
        print(f"{kills} kills, {count} samples and verdicts: {'equal' if equal else 'DIFFERENT'}")
        print(f"samples begun after they were finished: {len(again)}")
        return 0 if equal and not again and kills else 1


if __name__ == "__main__":
    sys.exit(main())
