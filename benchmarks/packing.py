"""Measure the planning of an epoch of lognormal documents, from the index on disk to the plan on disk.

    python -m benchmarks.packing --documents 1e6 1e7 1e8 --seq-length 8192

Prints one JSON object per size: seconds, memory, fill. Each size runs in a process of its own, whose largest resident
size is its memory; ``private`` is that without the pages of mapped files, which the system reclaims when it needs them.
"""
# bench: cpu

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from megatron_octo.data.dataset.header import DTYPES, HEADER, MAGIC, VERSION
from megatron_octo.data.planning.paths import read_group
from megatron_octo.data.planning.plan_cache import plan_directory, read_plan, write_plan
from megatron_octo.data.planning.planner import Planner
from megatron_octo.data.planning.settings import RowSettings

_BLOCK = 1 << 20


def write_index(prefix: Path, documents: int, median: float, sigma: float, pairs: bool, seed: int = 0) -> int:
    """Write an index of documents and a sparse file as long as their tokens; returns the number of tokens.

    A document is one target, or with ``pairs`` a context and a target of the same length.
    """
    generator = np.random.default_rng(seed)
    each = 2 if pairs else 1
    sequences = each * documents
    with open(f"{prefix}.idx", "wb") as file:
        code = next(code for code, dtype in DTYPES.items() if dtype == np.dtype("<u2"))
        file.write(HEADER.pack(MAGIC, VERSION, code, sequences, documents + 1))
        lengths = np.empty(sequences, "<i4")
        for start in range(0, sequences, _BLOCK):
            part = lengths[start : start + _BLOCK]
            drawn = generator.lognormal(np.log(median), sigma, len(part) // each)
            part[:] = np.repeat(np.maximum(drawn / each, 2), each)
        lengths.tofile(file)
        before = 0
        for start in range(0, sequences, _BLOCK):
            ends = before + 2 * np.cumsum(lengths[start : start + _BLOCK], dtype=np.int64)
            np.concatenate([[before], ends[:-1]]).astype("<i8").tofile(file)
            before = int(ends[-1])
        np.arange(0, sequences + 1, each, dtype="<i8").tofile(file)
        np.tile(np.array([0, 1], "i1")[-each:], documents).tofile(file)
    with open(f"{prefix}.bin", "wb") as file:
        file.truncate(before)
    return before // 2


class _Private(threading.Thread):
    """The largest anonymous memory of this process, sampled every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest = 0

    def run(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            found = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            self.largest = max(self.largest, int(found.split()[1]) * 1024)
            time.sleep(0.02)


def measure(prefix: str, cache: str, seq_length: int, overlong: str) -> dict[str, object]:
    """Open, plan, write and read back; call it in a fresh process."""
    watch = _Private()
    watch.start()
    start = time.perf_counter()
    planner = Planner(
        read_group(f"x: 1 0:1 {prefix}"),
        RowSettings(
            seq_length=seq_length,
            seed=1,
            overlong=overlong,
            cache_dir=cache,
        ),
    )
    opened = time.perf_counter()
    key = {**planner.key, "epoch": 0}
    directory = plan_directory(planner.cache, key)
    plan = planner.build(0)
    built = time.perf_counter()
    write_plan(plan, directory, key)
    summary = plan.summary
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    read_plan(directory, key)
    return {
        "documents": int(plan.bases[-1]),
        "seq_length": seq_length,
        "overlong": overlong,
        "rows": summary["rows"],
        "fill": round(summary["fill"], 6),
        "seconds": round(done - start, 2),
        "open_s": round(opened - start, 2),
        "build_s": round(built - opened, 2),
        "write_s": round(done - built, 2),
        "read_and_verify_s": round(time.perf_counter() - done, 2),
        "peak_gib": round(peak / 2**30, 2),
        "private_gib": round(watch.largest / 2**30, 2),
        "plan_bytes_per_document": round(
            sum(path.stat().st_size for path in directory.iterdir()) / int(plan.bases[-1]), 2
        ),
    }


def main() -> None:
    """Measure every size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", nargs="+", type=float, default=[1e6, 1e7])
    parser.add_argument("--seq-length", nargs="+", type=int, default=[8192])
    parser.add_argument("--overlong", default="split")
    parser.add_argument("--median", type=float, default=300, help="tokens of a document")
    parser.add_argument("--sigma", type=float, default=1.2)
    parser.add_argument("--pairs", action="store_true", help="context and target, not text alone")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        prefix, cache = args.child
        found = measure(prefix, cache, args.seq_length[0], args.overlong)
        print(json.dumps({"pairs": args.pairs, **found}))
        return
    for documents in args.documents:
        with tempfile.TemporaryDirectory() as folder:
            prefix = Path(folder) / "lengths"
            write_index(Path(prefix), int(documents), args.median, args.sigma, args.pairs)
            for seq_length in args.seq_length:
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.packing",
                    "--child",
                    str(prefix),
                    f"{folder}/plans",
                ]
                command += ["--seq-length", str(seq_length), "--overlong", args.overlong]
                command += ["--pairs"] * args.pairs
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
                print(done.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
