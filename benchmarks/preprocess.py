r"""Measure preprocess beside Megatron-LM's tools/preprocess_data.py: same file, tokenizer and number of workers.

    python -m benchmarks.preprocess --commits ../shared/data/commits.jsonl.gz \
        --tokenizer ../shared/data/starcoder_tokenizer.json --megatron PATH --megabytes 200

Without ``--megatron`` (a checkout of Megatron-LM) this project runs alone. The corpus is one column ``text``: both
sides of each commit, repeated with variations until it is large enough (identifiers of a document exchanged among
themselves, digits moved), and one line of more than 10 MB. Rates are of the whole command, start-up included: tokens
over seconds of CPU of all its processes, which other load changes little, and over wall time.
Memory is the largest sum of the processes' proportional set sizes. One JSON object goes to standard output.
"""

import argparse
import gzip
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from megatron_octo.data.dataset.indexed import open_corpus

_WORD = re.compile(r"[A-Za-z_]\w{3,}")
_DIGIT = re.compile(r"[0-9]")
LONG = 10_500_000  # characters of the long line


def texts(commits: Path) -> list[str]:
    """Return both sides of every commit that are not empty."""
    with gzip.open(commits) as file:
        rows = [orjson.loads(line) for line in file]
    return [row[column] for row in rows for column in ("old_contents", "new_contents") if row[column]]


def varied(given: Sequence[str], seed: int = 0) -> Iterator[str]:
    """Yield the texts, then variations of them without end, always the same ones."""
    yield from given
    copy = 0
    while copy := copy + 1:
        for number, text in enumerate(given):
            generator = random.Random(f"{seed} {copy} {number}")
            words = sorted(set(_WORD.findall(text)))
            some = generator.sample(words, len(words) // 4)
            names = dict(zip(some, generator.sample(some, len(some))))
            moved = _WORD.sub(lambda found, names=names: names.get(found[0], found[0]), text)  # type: ignore[misc]
            yield _DIGIT.sub(lambda found, by=copy: str((int(found[0]) + by) % 10), moved)  # type: ignore[misc]


def write_corpus(path: Path, given: Sequence[str], megabytes: float, long_line: bool = True) -> int:
    """Write rows of text; returns the number of documents."""
    rows, size = 0, 0
    with path.open("wb") as file:
        if long_line:
            whole = "\n".join(given)
            size += file.write(orjson.dumps({"text": (whole * (LONG // len(whole) + 1))[:LONG]}) + b"\n")
            rows += 1
        for text in varied(given):
            if size >= megabytes * 1e6:
                return rows
            size += file.write(orjson.dumps({"text": text}) + b"\n")
            rows += 1
    raise AssertionError("variations never end")


class Memory(threading.Thread):
    """The most memory that a process and its descendants hold together, sampled five times per second."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self._process, self.peak, self.done = psutil.Process(pid), 0, False

    def run(self) -> None:
        """Sample until ``done``."""
        while not self.done:
            total = 0
            try:
                for process in [self._process, *self._process.children(recursive=True)]:
                    total += process.memory_full_info().pss
            except psutil.Error:  # one ended meanwhile
                pass
            self.peak = max(self.peak, total)
            time.sleep(0.2)


def measure(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a command to its end; returns seconds of wall time and of CPU, and MiB at the peak."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        memory = Memory(process.pid)
        memory.start()
        code = process.wait()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    memory.done = True
    if code:
        raise SystemExit(f"failed: {' '.join(command)}\n{log.read_text()[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": round(memory.peak / 2**20)}


def rates(tokens: int, found: dict[str, float]) -> dict[str, float]:
    """Return a measurement with its tokens and rates."""
    return {
        "tokens": tokens,
        "tokens_per_cpu_s": round(tokens / found["cpu_s"]),
        "tokens_per_wall_s": round(tokens / found["wall_s"]),
        **found,
    }


def ours(rows: Path, tokenizer: Path, workers: int, folder: Path, *options: str) -> dict[str, float]:
    """Measure this project."""
    command = [
        *(sys.executable, "-m", "megatron_octo.preprocess", "--format", "text", "--input", str(rows)),
        *("--tokenizer", str(tokenizer), "--output-prefix", str(folder / "ours")),
        *("--workers", str(workers), *options),
    ]
    found = measure(command, folder)
    return rates(open_corpus(folder / "ours").tokens, found)


def theirs(rows: Path, tokenizer: Path, workers: int, folder: Path, megatron: Path) -> dict[str, float]:
    """Measure Megatron-LM's tool; its tokenizer is a directory of the transformers library."""
    home = folder / "tokenizer"
    home.mkdir()
    shutil.copy(tokenizer, home / "tokenizer.json")
    ends = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|endoftext|>")
    (home / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **ends}))
    command = [
        *(
            sys.executable,
            str(megatron / "tools" / "preprocess_data.py"),
            "--input",
            str(rows),
            "--append-eod",
        ),
        *("--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(home)),
        *("--output-prefix", str(folder / "theirs"), "--workers", str(workers)),
    ]
    found = measure(command, folder, {"PYTHONPATH": str(megatron), "PATH": os.environ["PATH"]})
    return rates(open_corpus(folder / "theirs_text_document").tokens, found)


def compare(folder: Path) -> dict[str, Any]:
    """Count the documents that differ; Megatron-LM reads spelled control tokens as tokens."""
    mine, other = open_corpus(folder / "ours"), open_corpus(folder / "theirs_text_document")
    assert len(mine) == len(other)
    differ, control = 0, 0
    for number in range(len(mine)):
        first, second = mine.document(number)[0], other.document(number)[0]
        if not np.array_equal(first, second):
            differ += 1
            control += bool((second[:-1] < 19).any())
    return {"documents": len(mine), "differ": differ, "of these with a spelled control token": control}


def main() -> None:
    """Measure one or both, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--megatron", type=Path)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = folder / "rows.jsonl"
        documents = write_corpus(rows, texts(args.commits), args.megabytes)
        result: dict[str, Any] = {
            "bytes": rows.stat().st_size,
            "documents": documents,
            "workers": args.workers,
            "versions": {name: version(name) for name in ("tokenizers", "tokie", "transformers")},
            "ours": ours(rows, args.tokenizer, args.workers, folder),
        }
        if args.megatron:
            result["megatron"] = theirs(rows, args.tokenizer, args.workers, folder, args.megatron)
            for key in ("tokens_per_cpu_s", "tokens_per_wall_s"):
                result[f"ratio {key}"] = round(result["ours"][key] / result["megatron"][key], 1)
            result["comparison"] = compare(folder)
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
