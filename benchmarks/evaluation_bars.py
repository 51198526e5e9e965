"""Score known answers of HumanEvalPack in every way that must not change a verdict, and compare the cost with a peer.

    python -m benchmarks.evaluation_bars --data DIR [--peer BIGCODE_EVALUATION_HARNESS] [--limit K]

Right, buggy and empty answers on both bases: cold, from the cache, again without it, and beside eight busy loops.
With ``--peer``, the reference harness's executor of Python programs (``custom_metrics/execute.py`` of a checkout, which
runs programs without a sandbox) judges the same programs in the same run: its verdicts beside those of compat mode, and
its CPU seconds beside ours. Prints a table of bars, then one JSON object.
"""
# bench: cpu

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.evaluation.benchmark import compat_programs
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.rows import Row, read_rows
from megatron_octo.evaluation.records import LANGUAGES, Kind
from megatron_octo.evaluation.sandbox.levels import probe_level
from megatron_octo.evaluation.scoring.cache import VerdictCache
from megatron_octo.evaluation.scoring.compat import compat_texts
from megatron_octo.evaluation.scoring.judge import Job, Judge
from megatron_octo.evaluation.scoring.known import BASES, Answer, known_answers, score_answers
from megatron_octo.evaluation.scoring.score import Tally

KINDS = {"canonical": True, "buggy": False, "empty": False}
LOOPS = 8
PEER = "bigcode_eval/tasks/custom_metrics/execute.py"
PEER_SECONDS = 10.0
_TOP = {"CPU": 300.0, "wall": 300.0, "cache": 10.0, "peer": 1.3, "C++": 3.0}

type Rows = Mapping[str, Sequence[Row]]
type Verdicts = dict[tuple[str, str, int], Kind]  # language, base, problem


@dataclass
class Bars:
    """Bars with what was found; ``failed`` counts those that were missed."""

    lines: list[tuple[str, str, str, bool]] = field(default_factory=list)

    def add(self, what: str, found: str, wanted: str, good: bool) -> None:
        """Note a bar, and show it."""
        self.lines.append((what, found, wanted, good))
        print(f"{'ok    ' if good else 'FAILED'}  {what:58} {found:>26}   wanted: {wanted}", flush=True)

    @property
    def failed(self) -> int:
        """Number of bars that were missed."""
        return sum(not good for *_, good in self.lines)


def total_tally(which: str, rows: Rows, judge: Judge, bases: Sequence[str]) -> tuple[Tally, Verdicts]:
    """Score answers of a kind; returns the sum of all counts, and each verdict's kind."""
    verdicts: Verdicts = {}
    total, started = Tally(), time.monotonic()
    for base in bases:
        for name, found in rows.items():
            tally, pairs = score_answers(known_answers(which, found, base), judge, f"{which} {name} {base}")
            total.kinds.update(tally.kinds)
            total.compile_cpu_s += tally.compile_cpu_s
            total.run_cpu_s += tally.run_cpu_s
            total.cached += tally.cached
            verdicts |= {(name, base, answer.row.number): verdict.kind for answer, verdict in pairs}
    total.wall_s = time.monotonic() - started
    return total, verdicts


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep processes busy meanwhile."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def own_bars(bars: Bars, rows: Rows, cache: Path) -> dict[str, Any]:
    """Run all bars that need no peer; returns measures."""
    level, count = probe_level(), sum(map(len, rows.values()))
    measures: dict[str, Any] = {"level": level.name, "rows": count}
    found: dict[str, Verdicts] = {}
    with Judge(level, cache, VerdictCache(cache / "verdicts.sqlite")) as judge:
        cold, first = total_tally("canonical", rows, judge, ("declaration",))
        cpu = cold.compile_cpu_s + cold.run_cpu_s
        bars.add(
            "canonical, cold: CPU seconds in the sandboxes", f"{cpu:.1f}", f"<= {_TOP['CPU']:.0f}", cpu <= _TOP["CPU"]
        )
        bars.add(
            "canonical, cold: seconds", f"{cold.wall_s:.1f}", f"<= {_TOP['wall']:.0f}", cold.wall_s <= _TOP["wall"]
        )
        measures |= {"cold_cpu_s": cpu, "cold_wall_s": cold.wall_s, "compile_cpu_s": cold.compile_cpu_s}
        for which, passes in KINDS.items():
            _, found[which] = total_tally(which, rows, judge, tuple(BASES))
            passed = sum(kind is Kind.PASSED for kind in found[which].values())
            total = len(BASES) * count
            bars.add(
                f"{which}, both bases",
                f"{passed}/{total}",
                f"{total if passes else 0}/{total}",
                passed == passes * total,
            )
    with Judge(level, cache, VerdictCache(cache / "verdicts.sqlite")) as judge:
        warm, again = total_tally("canonical", rows, judge, ("declaration",))
    good = warm.wall_s <= _TOP["cache"] and again == first
    bars.add("canonical, from the cache: seconds", f"{warm.wall_s:.1f}", f"<= {_TOP['cache']:.0f}, same verdicts", good)
    measures["cache_wall_s"] = warm.wall_s
    for title, loops in (("again without the cache", 0), (f"beside {LOOPS} busy loops", LOOPS)):
        with busy_loops(loops), Judge(level, cache) as judge:
            for which in KINDS:
                _, other = total_tally(which, rows, judge, tuple(BASES))
                differing = sorted(key for key in other if other[key] != found[which][key])
                shown = f"{len(differing)} differ" + (f": {differing[:5]}" if differing else "")
                bars.add(f"{which}, {title}", shown, "0 differ", not differing)
    return measures


def mixed_answers(rows: Sequence[Row]) -> list[Answer]:
    """Return right, buggy, empty and truncated answers to Python's problems, numbered in this order."""
    answers = [answer for which in KINDS for answer in known_answers(which, rows, "prompt")]
    for answer in known_answers("canonical", rows, "prompt"):
        half = answer.text[: len(answer.text) // 2]
        answers.append(Answer(answer.task, answer.row, 3, half))
    return answers


def _load(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location("peer_execute", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def judge_with_peer(peer: Path, programs: Sequence[str]) -> tuple[list[bool], list[str]]:
    """Judge programs by the reference harness's executor, four at once as it does."""
    importlib.import_module("numpy")  # as in the peer's own parent process, whose children import it at no cost
    module = _load(peer / PEER)
    with ThreadPoolExecutor(max_workers=4) as pool:
        jobs = [
            pool.submit(module.check_correctness, text, PEER_SECONDS, place, 0) for place, text in enumerate(programs)
        ]
        results = [job.result() for job in jobs]
    return [bool(result["passed"]) for result in results], [str(result["result"]) for result in results]


def _cpu() -> float:
    """Return CPU seconds of this process and of its ended children."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def peer_bars(bars: Bars, rows: Rows, peer: Path, cache: Path) -> dict[str, Any]:
    """Compare verdicts and CPU seconds of Python programs with the reference harness's executor."""
    answers = mixed_answers(rows["python"])
    solutions = [cut(each.task, each.row, each.text, compat=True).solution for each in answers]
    programs = [compat_texts(each.row, [text])[0] for each, text in zip(answers, solutions, strict=True)]
    whole = [compat_programs.programs(each.row, [text])[0] for each, text in zip(answers, solutions, strict=True)]
    theirs, words = judge_with_peer(peer, whole)
    level = probe_level()
    ours: dict[int, Any] = {}
    with Judge(level, cache, compat=True) as judge:
        jobs = [Job(place, each.row, solutions[place], programs[place]) for place, each in enumerate(answers)]
        for judged in judge.all(jobs):
            ours[judged.job.key] = judged.verdict
    names = ("canonical", "buggy", "empty", "truncated")
    differing = []
    for place, answer in enumerate(answers):
        if (ours[place].kind is Kind.PASSED) != theirs[place]:
            name = names[place // len(rows["python"])]
            differing.append(f"{name} {answer.row.task_id}: {ours[place].kind} here, {words[place][:60]!r} there")
    bars.add(
        f"compat and the peer on {len(answers)} Python programs", f"{len(differing)} differ", "0 differ", not differing
    )
    for line in differing:
        print(f"        {line}")
    texts = whole[: len(rows["python"])]
    before = _cpu()
    judge_with_peer(peer, texts)
    their_cpu = _cpu() - before
    before = _cpu()
    with Judge(level, cache) as judge:
        tally, _ = total_tally("canonical", {"python": rows["python"]}, judge, ("prompt",))
    outside, inside = _cpu() - before, tally.compile_cpu_s + tally.run_cpu_s
    ratio = (outside + inside) / their_cpu
    shown = f"{outside + inside:.1f}/{their_cpu:.1f} = {ratio:.2f}"
    bars.add("Python, CPU in and around sandboxes / peer's", shown, f"<= {_TOP['peer']}", ratio <= _TOP["peer"])
    return {"peer_cpu_s": their_cpu, "own_inside_cpu_s": inside, "own_outside_cpu_s": outside, "differing": differing}


def cpp_bar(bars: Bars, rows: Rows, cache: Path) -> dict[str, Any]:
    """Compare compilation of C++ with the original's command line."""
    spent = {}
    for compat in (False, True):
        with Judge(probe_level(), cache, compat=compat) as judge:
            tally, _ = total_tally("canonical", {"cpp": rows["cpp"]}, judge, ("prompt",))
            spent[compat] = tally.compile_cpu_s
    ratio = spent[True] / spent[False]
    found = f"{spent[True]:.1f}/{spent[False]:.1f} = {ratio:.1f}"
    bars.add("C++, CPU of the original's compilation / ours", found, f">= {_TOP['C++']:.0f}", ratio >= _TOP["C++"])
    return {"cpp_original_cpu_s": spent[True], "cpp_own_cpu_s": spent[False]}


def main() -> int:
    """Run the bars; exit code 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows of HumanEvalPack")
    parser.add_argument("--peer", type=Path, help="checkout of bigcode-evaluation-harness")
    parser.add_argument("--limit", type=int, help="the first K problems of each language")
    parser.add_argument("--skip-own", action="store_true", help="only the comparisons with the peer")
    arguments = parser.parse_args()
    rows = {name: read_rows(arguments.data, name)[: arguments.limit] for name in LANGUAGES}
    bars, measures = Bars(), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="evaluation-bars-", dir="/var/tmp") as folder:
        cache = Path(folder)
        cache.chmod(0o755)
        if not arguments.skip_own:
            measures |= own_bars(bars, rows, cache)
            measures |= cpp_bar(bars, rows, cache)
        if arguments.peer:
            measures |= peer_bars(bars, rows, arguments.peer, cache)
    measures |= {"cpus": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "failed": bars.failed}
    print(json.dumps(measures))
    return 1 if bars.failed else 0


if __name__ == "__main__":
    sys.exit(main())
