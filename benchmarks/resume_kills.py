# bench: cpu
"""Training under SIGKILL: killed at random moments and started again, does it end where an undisturbed run ends?

    python -m benchmarks.resume_kills                     # 200 kills, seed 0
    python -m benchmarks.resume_kills --kills 20 --seed 7

A tiny model trains on two processes. Each start of ``python -m megatron_octo.train`` gets a SIGKILL at a moment drawn
from its first seconds, importing aside (the ranks are forked from a process that has imported everything): while it
finds its checkpoint, loads, trains, copies, writes or commits. Half of the kills hit all ranks at once, half one rank
first and the rest a moment later. The same command is started again until the run is finished; then every step's loss,
gradient norm and place in the data, and every weight, Adam moment and random state of the checkpoints must be bitwise
those of a run that nobody disturbed. Three layouts take turns until there were enough kills.
"""

import argparse
import importlib
import itertools
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.machine import keep, machine
from megatron_octo.model.platform.mcore import load_mcore
from megatron_octo.runfiles.run_directory import read_metrics
from tests.distributed import exit_codes
from tests.training.runs import TestRun, small_corpus

DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
EVERY = 10  # steps of the checkpoints that are kept for the comparison
LAYOUTS: dict[str, dict[str, Any]] = {
    "tensor 2, a save a step": {
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


def make_run(folder: Path, corpus: Path, name: str, steps: int, sections: dict[str, Any]) -> TestRun:
    checkpoint = {**sections["checkpoint"], "keep": 2, "keep_every": EVERY}
    train = {**sections.get("train", {}), "steps": steps}
    return TestRun(folder, corpus, name, **{**sections, "checkpoint": checkpoint, "train": train})


def unfinished(run: TestRun) -> set[tuple[str, int]]:
    """Saves that are under way or were left so."""
    return {(path.name, path.stat().st_mtime_ns) for path in run.checkpoints.glob(".step-*")}


def attempt(run: TestRun, generator: random.Random, horizon: float) -> str:
    """Start a run and kill it at a random moment; says what was hit, or "finished".

    Raises:
        AssertionError: it ended by itself, and not well.
    """
    moment, together = generator.uniform(0.0, horizon), generator.random() < 0.5
    victims = generator.sample(range(WORLD), WORLD)
    later = generator.uniform(0.0, 0.2)
    before = unfinished(run)
    processes = run.start(WORLD)
    processes[0].join(moment)
    alive = all(process.is_alive() for process in processes)
    for number in victims:
        processes[number].kill()
        if not together:
            time.sleep(later)
    codes = exit_codes(processes)
    if not alive:
        assert codes == [0] * WORLD, run.log.read_text()[-3000:]
        return "finished"
    if unfinished(run) - before:
        return "in a save"
    return "between saves" if any(run.checkpoints.glob("step-*")) else "before the first checkpoint"


def compare(run: TestRun, whole: TestRun, steps: int) -> int:
    """Whether a run's results are those of another to the last bit; returns how many epochs they went through.

    Raises:
        AssertionError: they are not.
    """
    assert [record["step"] for record in read_metrics(run.path)] == list(range(1, steps + 1))
    # Place in the data: with the rows of a step and the seed of the plan it says which samples a step had.
    assert run.curve() == whole.curve()
    assert run.names() == whole.names()
    for name in run.names():
        if name.startswith("step-"):
            number = int(name.removeprefix("step-"))
            assert run.content(number) == whole.content(number), f"checkpoint {name}"
    assert run.state()["status"] == "finished"
    assert not (left := list(run.path.rglob(".*.tmp"))), f"left behind: {left}"
    return run.curve()[-1][3] + 1


def resumes_over_borders(run: TestRun) -> int:
    """Resumes after which the very next step took rows of two epochs."""
    records = read_metrics(run.path)
    return sum(
        before["attempt"] != after["attempt"] and before["epoch"] != after["epoch"] and after["row"] > 0
        for before, after in itertools.pairwise(records)
    )


def campaign(folder: Path, kills: int, seed: int, steps: int) -> dict[str, Any]:
    """Kill runs of all layouts in turn until there were ``kills`` of them; every run is compared.

    Raises:
        AssertionError: a run was not what the undisturbed one is.
    """
    corpus = small_corpus(folder)
    load_mcore()
    importlib.import_module("megatron_octo.training.loop")  # here once, and not in every rank
    generator, counts = random.Random(seed), Counter[str]()
    wholes: dict[str, TestRun] = {}
    horizons: dict[str, float] = {}  # a kill comes so many seconds after a start, at most
    runs = 0
    while sum(counts.values()) < kills:
        name = list(LAYOUTS)[runs % len(LAYOUTS)]
        if name not in wholes:
            whole = make_run(folder / f"whole-{runs}", corpus, "run", steps, LAYOUTS[name])
            start = time.perf_counter()
            whole.train(WORLD)
            # Half of an undisturbed run: so a run takes several kills before it is finished.
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
        # Whatever else the machine does: neither one kill a run, nor a run that gets nowhere.
        horizons[name] *= 0.8 if hits.total() < 5 else 1.2 if hits.total() > 15 else 1.0
        print(
            f"{sum(counts.values()):4} kills | {name}: {dict(hits)}, {epochs} epochs, {borders} resumes before an "
            f"epoch's border: as the undisturbed run (killed in the first {horizon:.1f} s)",
            flush=True,
        )
    return {"kills": sum(counts.values()), "runs": runs, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="of each run (default: 60)")
    parser.add_argument("--output", type=Path, help="JSON lines are appended here")
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), args.kills, args.seed, args.steps)
    found = {**found, "seconds": round(time.perf_counter() - start), "seed": args.seed, "steps": args.steps}
    keep(args.output, {**found, "machine": machine()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
