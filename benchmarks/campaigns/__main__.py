# bench: cpu
"""Attack the product at random, with seeds, and fail loudly.

    python -m benchmarks.campaigns parquet --seed 1 --count 400
    python -m benchmarks.campaigns runs --seed 1 --first 17 --count 1 --keep /tmp/attack

Campaigns: tokenizers (generated tokenizers, fast path beside the reference), parquet (damaged files), runs (vandalised
run directories), injections (values that may become code or markup), conversions (malicious weights), kills (training
and preprocessing). Each attack depends on seed and number alone. Exit code 1: a fault.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.campaigns import attack
from benchmarks.support.machine import keep, machine

NAMES = ("tokenizers", "parquet", "runs", "injections", "conversions", "kills")


def main() -> int:
    """Run one campaign; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="attacks (default: as many as the campaign is quoted with)")
    parser.add_argument("--first", type=int, default=0, help="number of the first attack (default: 0)")
    parser.add_argument("--keep", type=Path, help="folder for the inputs, which stay (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="file to which JSON lines are appended")
    args = parser.parse_args()
    kind: type[attack.Campaign] = importlib.import_module(f"benchmarks.campaigns.{args.name}").Attacks
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = attack.run(kind(folder), args.name, args.seed, args.first, args.count or kind.count)
    keep(args.output, {**found, "machine": machine()})
    return 1 if found["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
