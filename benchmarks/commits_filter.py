"""Measure the rules of ``commits filter`` without the one on tokens, reading included, in rows per CPU second.

    python -m benchmarks.commits_filter [--rows ../shared/data/commits.jsonl.gz] [--copies 5] [--rounds 3]

The rows are written as plain jsonl, several times over. Prints the median of some rounds: of parsing alone, and of
parsing with the rules of each mode.
"""
# bench: cpu

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from megatron_octo.commits.filters.command import Settings, filter_rows
from megatron_octo.commits.filters.rule_sets import MODES
from megatron_octo.commits.rows import Writer, read_rows


def measure(work: Callable[[], int], rounds: int) -> tuple[float, int]:
    """Return the median CPU seconds of some rounds, and what the work counted."""
    times, count = [], work()
    for _ in range(rounds):
        started = time.process_time()
        count = work()
        times.append(time.process_time() - started)
    return statistics.median(times), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="../shared/data/commits.jsonl.gz")
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        rows = list(read_rows(arguments.rows))
        with Writer(path) as writer:
            for _ in range(arguments.copies):
                for row in rows:
                    writer.write(row)
        total, size = len(rows) * arguments.copies, path.stat().st_size / 1e6
        seconds, _ = measure(lambda: sum(1 for _ in read_rows(path)), arguments.rounds)
        print(f"{total:,} rows, {size:.0f} MB; parsing alone: {total / seconds:,.0f} rows per CPU s")
        for mode in MODES:
            seconds, kept = measure(functools.partial(_filter, path, Settings(mode)), arguments.rounds)
            print(f"{mode}: {kept:,} kept, {total / seconds:,.0f} rows per CPU s, {size / seconds:.0f} MB per CPU s")


def _filter(path: Path, settings: Settings) -> int:
    return sum(row.kept for row in filter_rows(read_rows(path), settings))


if __name__ == "__main__":
    main()
