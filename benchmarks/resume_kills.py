# bench: cpu
"""Kill small trainings at random moments, start them again, and compare all results with those of an undisturbed run.

    python -m benchmarks.resume_kills                     # 200 interruptions, seed 0
    python -m benchmarks.resume_kills --kills 20 --seed 7

A tiny model trains on two processes. Each start of ``python -m megatron_octo.train`` gets a signal (SIGKILL, SIGINT or
SIGTERM) at a moment drawn from its first seconds, without the imports (the ranks are forked from a process that has
imported everything): while it finds its checkpoint, loads, trains, copies, writes or commits. Half of the signals reach
all ranks at once, half one rank first and the rest a moment later. The same command is started again until the run is
finished; then every step's loss, gradient norm and place in the data, and every weight, Adam moment and random state of
the checkpoints must be bitwise those of the undisturbed run. Three layouts take turns until there were enough signals.
"""

import importlib
import itertools
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.support import kill_driver
from benchmarks.support.machine import keep, machine
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.runfiles.run_directory import read_metrics
from tests.distributed import exit_codes
from tests.training.runs import TestRun, small_corpus

DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
EVERY = 10  # steps of the checkpoints that are kept for the comparison
LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor 2, a save per step": {
        "model": DROPOUT,
        "parallel": {"tensor": 2},
        "checkpoint": {"interval": 1},
    },
    "data 2, bf16, a save every two steps": {
        "model": DROPOUT,
        "train": {"precision": "bf16"},
        "checkpoint": {"interval": 2},
    },
    "pipeline 2, saves that wait": {
        "parallel": {"pipeline": 2},
        "checkpoint": {"interval": 1, "asynchronous": False},
    },
}
WORLD = 2
_ASKED_TO_END = {0, 75, 76, 130, -signal.SIGINT, -signal.SIGTERM}  # exit codes after SIGINT or SIGTERM


def make_run(folder: Path, corpus: Path, name: str, steps: int, sections: dict[str, Any]) -> TestRun:
    """Write the recipe of a run with a layout's sections."""
    checkpoint = {**sections["checkpoint"], "keep": 2, "keep_every": EVERY}
    train = {**sections.get("train", {}), "steps": steps}
    return TestRun(folder, corpus, name, **{**sections, "checkpoint": checkpoint, "train": train})


def unfinished(run: TestRun) -> set[tuple[str, int]]:
    """Return the directories of saves that have no final name yet."""
    return {(path.name, path.stat().st_mtime_ns) for path in run.checkpoints.glob(".step-*")}


def attempt(run: TestRun, generator: random.Random, horizon: float) -> str:
    """Start a run and interrupt it at a random moment; returns the signal and what it hit, or "finished".

    Raises:
        AssertionError: it ended by itself with an error, or answered a signal with another exit code or a traceback.
    """
    moment, together = generator.uniform(0.0, horizon), generator.random() < 0.5
    victims = generator.sample(range(WORLD), WORLD)
    later, number = generator.uniform(0.0, 0.2), generator.choice(kill_driver.SIGNALS)
    before, printed = unfinished(run), run.log.stat().st_size if run.log.exists() else 0
    processes = run.start(WORLD)
    processes[0].join(moment)
    alive = all(process.is_alive() for process in processes)
    for victim in victims:
        if (pid := processes[victim].pid) and processes[victim].is_alive():
            os.kill(pid, number)
        if not together:
            time.sleep(later)
    codes = exit_codes(processes)
    text = run.log.read_text(errors="replace")[printed:] if run.log.exists() else ""
    if not alive or (number != signal.SIGKILL and codes == [0] * WORLD):
        assert codes == [0] * WORLD, text[-3000:]
        return "finished"
    if number != signal.SIGKILL:
        # A rank that was interrupted before the command's first line ends with Python's own code.
        early = {1} if not text else set()
        assert set(codes) <= _ASKED_TO_END | early, f"exit codes {codes} after {number.name}:\n{text[-3000:]}"
        assert "Traceback" not in text, text[-3000:]
        return f"{number.name}"
    if unfinished(run) - before:
        return "in a save"
    return "between saves" if any(run.checkpoints.glob("step-*")) else "before the first checkpoint"


def compare(run: TestRun, whole: TestRun, steps: int) -> int:
    """Compare a run's results with another's, to the last bit; returns the number of epochs that they went through.

    Raises:
        AssertionError: they differ.
    """
    assert [record["step"] for record in read_metrics(run.path)] == list(range(1, steps + 1))
    # Place in the data: with the rows of a step and the seed of the plan it determines the samples of a step.
    assert run.curve() == whole.curve()
    # A run that is asked to end saves then, so that other checkpoints than those of every ten steps may be kept.
    for number in {*range(EVERY, steps + 1, EVERY), steps}:
        assert run.content(number) == whole.content(number), f"checkpoint of step {number}"
    assert not unfinished(run)
    assert run.state()["status"] == "finished"
    assert not (left := list(run.path.rglob(".*.tmp"))), f"left behind: {left}"
    return run.curve()[-1][3] + 1


def resumes_over_borders(run: TestRun) -> int:
    """Count the resumes after which the very next step took rows of two epochs."""
    records = read_metrics(run.path)
    return sum(
        before["attempt"] != after["attempt"] and before["epoch"] != after["epoch"] and after["row"] > 0
        for before, after in itertools.pairwise(records)
    )


def campaign(folder: Path, kills: int, seed: int, steps: int) -> dict[str, Any]:
    """Interrupt runs of all layouts in turn until there were ``kills`` interruptions; every run is compared.

    Raises:
        AssertionError: a run differs from the undisturbed one.
    """
    corpus = small_corpus(folder)
    load_mcore()
    importlib.import_module("megatron_octo.training.loop")  # here once, and not in every rank
    generator, counts = random.Random(seed), Counter[str]()
    wholes: dict[str, TestRun] = {}
    horizons: dict[str, float] = {}  # seconds from a start to its interruption, at most
    runs = 0
    while sum(counts.values()) < kills:
        name = list(LAYOUTS)[runs % len(LAYOUTS)]
        if name not in wholes:
            whole = make_run(folder / f"whole-{runs}", corpus, "run", steps, LAYOUTS[name])
            start = time.perf_counter()
            whole.train(WORLD)
            # Half of an undisturbed run: so a run is interrupted several times before it is finished.
            wholes[name], horizons[name] = whole, (time.perf_counter() - start) / 2
        whole, horizon = wholes[name], horizons[name]
        run = make_run(folder / f"killed-{runs}", corpus, "run", steps, LAYOUTS[name])
        hits = Counter[str]()
        while (hit := attempt(run, generator, horizon)) != "finished":
            hits[hit] += 1
            horizon *= 1.1 if hits.total() > 30 else 1.0  # a start takes longer than it did
        epochs = compare(run, whole, steps)
        borders = resumes_over_borders(run)
        counts += hits
        runs += 1
        # However busy the machine: neither one interruption per run, nor a run that makes no progress.
        horizons[name] *= 0.8 if hits.total() < 5 else 1.2 if hits.total() > 15 else 1.0
        print(
            f"{sum(counts.values()):4} kills | {name}: {dict(hits)}, {epochs} epochs, {borders} resumes before an "
            f"epoch's border: as the undisturbed run (interrupted in the first {horizon:.1f} s)",
            flush=True,
        )
    return {"kills": sum(counts.values()), "runs": runs, **counts}


def main() -> None:
    """Interrupt trainings of three layouts."""
    parser = kill_driver.arguments_of(__doc__, kills=200)
    parser.add_argument("--steps", type=int, default=60, help="steps of each run (default: %(default)s)")
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.directory) as folder:
        found = campaign(Path(folder), args.kills, args.seed, args.steps)
    found = {**found, "seconds": round(time.perf_counter() - start), "seed": args.seed, "steps": args.steps}
    keep(args.output, {**found, "machine": machine()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
