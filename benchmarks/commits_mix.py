"""Measure ``commits mix``: rows per CPU second, and memory: of the command, and of its plan for each row.

    python -m benchmarks.commits_mix [--rows 100000 400000] [--outputs 400] [--jobs 1] [--plan 1000000 10000000]

Makes two sources of made rows for each number, of which one gives half of its rows, with duplicates looked for and a
cap of languages, and runs the command as a user does. The plan holds all rows; it is measured alone, by made hashes of
more rows than the command is run on. Prints rows per CPU second of all processes, the peak memory of the largest, and
what a further row costs the plan.
"""
# bench: cpu

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

LANGUAGES = ("Python", "C++", "Rust", "Go", "Java", "JavaScript")
RUN = """
import resource, sys
from megatron_octo.commits.__main__ import main
code = main(sys.argv[1:])
use = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print("USE", sum(each.ru_utime + each.ru_stime for each in use), *(each.ru_maxrss for each in use))
sys.exit(code)
"""
PLAN = """
import resource, sys
import numpy as np
from megatron_octo.commits.sources.mix_plan import Scan, make_plan
from megatron_octo.commits.sources.mix_recipe import make_recipe
rows, pieces, r = int(sys.argv[1]), 20, np.random.default_rng(0)
sources = {"a": {"path": "p"}, "b": {"path": "q", "weight": 0.5}}
recipe = make_recipe({"sources": sources, "dedup": "inputs", "language_cap": rows}, "benchmark")
draw = lambda *shape: r.integers(0, 2**63, shape, dtype=np.uint64)
scans = [
    Scan(number % 2, draw(n), draw(n, 2), r.integers(0, 3, n, dtype=np.int32), ["", "C", "Go"], np.ones(n, bool))
    for number in range(pieces) for n in [rows // pieces]
]
make_plan(recipe, scans)
print("USE", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def make(path: Path, rows: int, characters: int, seed: int) -> None:
    """Write made rows, of which every tenth may have the inputs of another."""
    r = random.Random(seed)
    with path.open("w") as file:
        for number in range(rows):
            text = f"question {r.randrange(rows) if number % 10 == 0 else number} of {seed}"
            row = {"inputs": text, "outputs": f"{number:x} " * (characters // 6), "lang": LANGUAGES[number % 6]}
            file.write(json.dumps(row) + "\n")


def used(program: str, words: list[str]) -> list[float]:
    """Run a program; returns the numbers that it prints at the end."""
    found = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    return [float(each) for each in found.stdout.rpartition("USE")[2].split()]


def measure(rows: int, characters: int, jobs: int) -> tuple[float, float]:
    """Mix made rows; returns CPU seconds, and bytes of the largest process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in (1, 2):
            make(folder / f"{seed}.jsonl", rows // 2, characters, seed)
        sources = ["--source", f"a={folder}/1.jsonl", "--source", f"b={folder}/2.jsonl:0.5"]
        words = ["mix", *sources, "--dedup", "inputs", "--language-cap", str(rows), "--jobs", str(jobs)]
        seconds, *memory = used(RUN, [*words, "--output", str(folder / "out")])
    return seconds, 1024 * max(memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--outputs", type=int, default=400, help="characters of an output")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--plan", type=int, nargs=2, default=[1_000_000, 10_000_000], help="rows of the plan")
    arguments = parser.parse_args()
    for rows in arguments.rows:
        seconds, memory = measure(rows, arguments.outputs, arguments.jobs)
        print(f"{rows:,} rows: {seconds:.1f} CPU s, {rows / seconds:,.0f} rows per CPU s, {memory / 2**20:,.0f} MiB")
    few, many = arguments.plan
    less, more = (1024 * used(PLAN, [str(rows)])[0] for rows in (few, many))
    print(f"plan: {less / 2**20:,.0f} MiB for {few:,} rows, {more / 2**20:,.0f} MiB for {many:,} rows")
    print(f"plan: a further row costs {(more - less) / (many - few):.0f} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
