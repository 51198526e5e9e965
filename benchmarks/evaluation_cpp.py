"""Compare the cost of judging C++ programs with that of the reference harness's compile line.

    python -m benchmarks.evaluation_cpp --data ../shared/data [--rows 40] [--output benchmarks/results/evaluation.jsonl]

Each canonical solution is judged by ours (in the sandbox) and compiled and run by theirs (`g++ -std=c++11 test.cpp
-lcrypto -lssl`, no sandbox), in turns. CPU seconds of ours are measured inside the sandbox.
"""
# bench: cpu

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.support.machine import keep, machine
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.languages.cpp import Cpp
from megatron_octo.evaluation.records import Kind
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root

_HEADERS = (
    *("stdlib.h", "algorithm", "cmath", "math.h", "numeric", "stdio.h", "vector", "set", "map", "queue", "stack"),
    *("list", "deque", "boost/any.hpp", "string", "climits", "cstring", "iostream", "sstream", "fstream"),
)


def theirs(row: Row) -> tuple[float, bool]:
    """Compile and run a program as the reference harness does; returns CPU seconds and whether it passed."""
    head = "using namespace std;\n" + "".join(f"#include<{name}>\n" for name in _HEADERS)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        text = f"{head}{row.declaration}{row.canonical_solution}\n\n{row.test}"
        (Path(folder) / "test.cpp").write_text(text, encoding="utf-8")
        compiled = ["/usr/bin/g++", "-std=c++11", "test.cpp", "-lcrypto", "-lssl"]
        done = subprocess.run(compiled, cwd=folder, capture_output=True)
        passed = done.returncode == 0 and subprocess.run(["./a.out"], cwd=folder, capture_output=True).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed


def measure(rows: list[Row]) -> dict[str, Any]:
    """Judge every row by both, in turns."""
    language = Cpp(cache_root())
    start = time.perf_counter()
    version = language.toolchain().version
    built_s = time.perf_counter() - start
    ours_s, theirs_s, passed = [], [], [0, 0]
    with Sandbox(probe_level()) as box:
        for row in rows:
            program = language.program(row, row.declaration + row.canonical_solution)
            verdict = language.judge(program, box, Limits())
            seconds, right = theirs(row)
            ours_s.append(verdict.compile_cpu_s + verdict.run_cpu_s)
            theirs_s.append(seconds)
            passed[0] += verdict.kind == Kind.PASSED
            passed[1] += right
    return {
        "compiler": version,
        "rows": len(rows),
        "passed": {"ours": passed[0], "theirs": passed[1]},
        "cpu_s": {"ours": round(statistics.median(ours_s), 3), "theirs": round(statistics.median(theirs_s), 3)},
        "sum_cpu_s": {"ours": round(sum(ours_s), 2), "theirs": round(sum(theirs_s), 2)},
        "theirs_per_ours": round(sum(theirs_s) / sum(ours_s), 2),
        "toolchain_ready_s": round(built_s, 2),
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of HumanEvalPack's rows")
    parser.add_argument("--rows", type=int, default=40, help="rows, spread over all")
    parser.add_argument("--output", type=Path, help="file of JSON lines to append to")
    args = parser.parse_args()
    rows = read_rows(args.data, "cpp")
    found = measure(rows[:: max(1, len(rows) // args.rows)][: args.rows])
    print(json.dumps(found))
    keep(args.output, {**machine(), **found})


if __name__ == "__main__":
    main()
