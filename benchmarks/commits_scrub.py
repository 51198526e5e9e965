"""Scrubbing of planted secrets and of real rows: what is found, what an edit stays, MB per CPU second.

    python -m benchmarks.commits_scrub [--rows ../shared/data/commits.jsonl.gz] [--per-kind 200] [--seed 0]

Prints the share of planted secrets that is found per kind, and the speed with and without hyperscan in one run.
"""

import argparse
import copy
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.planted_secrets import planted
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.commits.rows.row import text_bytes
from megatron_octo.commits.scrub.scrubber import Scrubber


def find_planted(scrubber: Scrubber, seed: int, per_kind: int) -> tuple[Counter[str], Counter[str], int]:
    """Scrub planted secrets; returns the counts of all and of removed ones per kind, and of edits that were lost."""
    made, gone, lost = Counter[str](), Counter[str](), 0
    for each in planted(seed, per_kind):
        row = scrubber.scrub(Row("a" * 40, old_contents=each.before, new_contents=each.after, subject="Print it"))
        made[each.kind] += 1
        gone[each.kind] += each.value not in f"{row.old_contents}{row.new_contents}"
        lost += row.old_contents == row.new_contents or not str(row.new_contents).startswith(str(row.old_contents))
    return made, gone, lost


def measure(rows: Sequence[Row], *, prefilter: bool) -> float:
    """Scrub copies of rows; returns the CPU seconds."""
    scrubber = Scrubber(prefilter=prefilter)
    copies = [copy.copy(row) for row in rows]
    started = time.process_time()
    for row in copies:
        scrubber.scrub(row)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="FILE", help="real rows, for the speed")
    parser.add_argument("--per-kind", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    made, gone, lost = find_planted(Scrubber(), arguments.seed, arguments.per_kind)
    for kind in made:
        print(f"{kind:20} {gone[kind]:5,} of {made[kind]:5,}  {gone[kind] / made[kind]:.3f}")
    print(f"all {len(made)} kinds: {gone.total() / made.total():.4f} found, {lost} edits lost")
    if arguments.rows:
        rows = list(read_rows(arguments.rows))
        size = sum(text_bytes(row.old_contents) + text_bytes(row.new_contents) for row in rows) / 1e6
        fast, slow = measure(rows, prefilter=True), measure(rows, prefilter=False)
        print(f"{len(rows):,} rows, {size:.1f} MB; MB per CPU s:")
        print(f"{size / fast:.0f} with hyperscan, {size / slow:.1f} without, ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
