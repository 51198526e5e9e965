"""Run made rows through filter, dedup and decontaminate; print CPU hours per TB and the peak memory of each stage.

    python -m benchmarks.commits_scale --gigabytes 4 --data DIR [--folder /tmp/scale] [--jobs 2]

Rows are edits made of the lines of Python's library, a tenth of them near duplicates of others. Each stage runs in a
process of its own; dedup is killed once and started again. Peak memory is the greatest of all processes together.
"""
# bench: cpu

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.commits_dedup import library_lines
from megatron_octo.commits.rows import Row, Writer

VERBS = ("Add", "Fix", "Remove", "Update", "Refactor", "change", "wip", "Merge")
SHARD = 256 << 20  # bytes of contents


def made(size: int, seed: int) -> Iterator[tuple[int, Row]]:
    """Yield rows of about ``size`` bytes together, with the bytes of each."""
    r, lines, done, number = random.Random(seed), library_lines(), 0, 0
    last: Row | None = None
    while done < size:
        number += 1
        if last is not None and r.random() < 0.1:
            words = str(last.new_contents).split(" ")
            words[r.randrange(len(words))] = f"w{r.randrange(10**6)}"
            old, new, subject = str(last.old_contents), " ".join(words), last.subject
        else:
            start = r.randrange(len(lines) - 600)
            old = "\n".join(lines[start : start + r.randrange(20, 400)])
            new = old + "\n" + "\n".join(lines[start + 400 : start + 400 + r.randrange(1, 120)])
            subject = f"{r.choice(VERBS)} the part {r.randrange(10**6)} of it again"
        commit = f"{r.getrandbits(160):040x}"
        last = Row(commit, "a/x_y.py", "a/x_y.py", old, new, subject, subject, "Python", "mit", "a/b")
        done += len(old) + len(new)
        yield len(old) + len(new), last


def write(folder: Path, size: int, seed: int) -> int:
    """Write the rows as parquet; returns their number."""
    rows, count, shard = made(size, seed), 0, 0
    while True:
        amount = 0
        with Writer(folder / f"in-{shard:03d}.parquet") as writer:
            for bytes_of, row in rows:
                writer.write(row)
                count, amount = count + 1, amount + bytes_of
                if amount >= SHARD:
                    break
            else:
                return count
        shard += 1


def run(words: list[str], kill_after: float | None = None) -> tuple[float, float, float]:
    """Run a stage; returns CPU seconds, seconds, and the peak memory of all of its processes in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "megatron_octo.commits", *words], stdout=subprocess.DEVNULL, start_new_session=True
    )
    peak, started, stop = 0, time.monotonic(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.2):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak = max(peak, sum(each.memory_info().rss for each in family))
            except psutil.Error:
                pass
            if kill_after is not None and time.monotonic() - started > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    stop.set()
    watcher.join()
    if status and kill_after is None:
        raise SystemExit(f"{words[0]} failed")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of contents")
    parser.add_argument("--data", required=True, help="folder with HumanEvalPack's rows")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scale"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True)
    size = int(arguments.gigabytes * 1e9)
    rows = write(folder, size, 0)
    print(f"{rows:,} rows, {size / 1e9:.1f} GB of contents", flush=True)
    inputs = sorted(str(path) for path in folder.glob("in-*.parquet"))
    total = 0.0
    for name, *words in (
        ("filter", "--no-tokens"),
        ("dedup",),
        ("decontaminate", "--benchmark", f"humanevalpack={arguments.data}"),
    ):
        output = folder / name
        command = [name, *inputs, "--output", str(output), "--jobs", str(arguments.jobs), *words]
        cpu = 0.0
        if name == "dedup":
            cpu, seconds, _ = run(command, kill_after=20.0)
            print(f"dedup killed after {seconds:.0f} s")
        more, seconds, peak = run(command)
        cpu, inputs = cpu + more, [str(output)]
        total += cpu
        manifest = json.loads((output / "stage.json").read_text())
        per_tb = cpu / 3600 / (size / 1e12)
        print(f"{name}: {cpu:.0f} CPU s, {seconds:.0f} s, {per_tb:.0f} CPU hours per TB, ", end="")
        print(f"peak memory {peak / 1e9:.2f} GB, {manifest['kept']:,} rows kept", flush=True)
    print(f"all: {total / 3600 / (size / 1e12):.0f} CPU hours per TB")


if __name__ == "__main__":
    main()
