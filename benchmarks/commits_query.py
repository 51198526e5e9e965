"""Run ``commits query`` with DuckDB over made tables, and print CPU seconds, peak memory and rows.

    python -m benchmarks.commits_query [--commits 1000000] [--seed 0] [--memory 1GB]

The query runs in a process of its own, whose CPU seconds and peak memory are measured, reading and writing included.
"""
# bench: cpu

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.made_lake import write_lake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", default="1GB")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        patterns = write_lake(Path(name), arguments.commits, arguments.seed)
        words = [word for table, pattern in patterns.items() for word in (f"--{table}", pattern)]
        output = Path(name) / "out"
        command = [sys.executable, "-m", "megatron_octo.commits", "query", *words, "--output", str(output)]
        started = time.monotonic()
        process = subprocess.Popen([*command, "--memory", arguments.memory], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("the query failed")
        found = json.loads((output / "stage.json").read_text())
        print(f"{arguments.commits:,} commits, stages: {found['stages']}")
        print(f"{usage.ru_utime + usage.ru_stime:.1f} CPU s, {time.monotonic() - started:.1f} s, ", end="")
        print(f"peak memory {usage.ru_maxrss / 1e6:.2f} GB, {found['rows']:,} rows")


if __name__ == "__main__":
    main()
