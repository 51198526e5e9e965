"""Find planted near duplicates: recall, precision, documents per CPU second, and the result by the number of shards.

    python -m benchmarks.commits_dedup [--documents 8000] [--planted 4000] [--seed 0]

Documents are edits: subjects and contents before and after, made of the lines of Python's library. A planted duplicate
is an edit of which some words were replaced. The truth is the Jaccard similarity of all planted pairs, computed from
their shingles.
"""
# bench: cpu

import argparse
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from megatron_octo.commits.__main__ import main as commits
from megatron_octo.commits.clean.edits import band_hashes, edit_words, jaccard, minhashes, shingles
from megatron_octo.commits.clean.keys import Near
from megatron_octo.commits.rows import Row, Writer, read_rows


def library_lines() -> list[str]:
    """Return the lines of Python's library."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [line for path in paths for line in path.read_text(errors="replace").splitlines() if line.strip()]


def made_edits(count: int, planted: int, seed: int) -> tuple[list[Row], list[tuple[int, int]]]:
    """Make edits, and planted near duplicates of some; returns the rows, shuffled, and the planted pairs."""
    r, lines = random.Random(seed), library_lines()
    rows: list[Row] = []
    pairs = []
    for number in range(count):
        start = r.randrange(len(lines) - 200)
        old = lines[start : start + r.randrange(20, 120)]
        new = lines[start + 200 : start + 200 + r.randrange(10, 60)]
        rows.append(_row(r, number, old, old + new, f"Add part {number} of it"))
    for number in range(planted):
        place = r.randrange(count)
        source = rows[place]
        words = str(source.new_contents).split(" ")
        for _ in range(max(1, int(len(words) * r.uniform(0.001, 0.025)))):
            words[r.randrange(len(words))] = f"w{r.randrange(10**6)}"
        pairs.append((place, len(rows)))
        rows.append(_row(r, count + number, [str(source.old_contents)], [" ".join(words)], source.subject))
    order = list(range(len(rows)))
    r.shuffle(order)
    back = {old: new for new, old in enumerate(order)}
    return [rows[place] for place in order], [(back[one], back[other]) for one, other in pairs]


def _row(r: random.Random, number: int, old: Sequence[str], new: Sequence[str], subject: str) -> Row:
    texts: dict[str, Any] = {"old_contents": "\n".join(old), "new_contents": "\n".join(new)}
    return Row(f"{r.getrandbits(160):040x}", f"a/{number}.py", f"a/{number}.py", subject=subject, repos="a/b", **texts)


def write_shards(rows: Sequence[Row], folder: Path, shards: int) -> list[str]:
    """Write rows in turn to files."""
    paths = []
    for shard in range(shards):
        path = folder / f"{shards}-{shard}.parquet"
        with Writer(path) as writer:
            for row in rows[shard::shards]:
                writer.write(row)
        paths.append(str(path))
    return paths


def dropped(path: Path) -> Iterator[tuple[str, str, float | None]]:
    """Yield commit, kept commit and similarity of the rows that were dropped."""
    for row in read_rows(path):
        if row.drop:
            yield row.commit, row.signals["dedup_cluster"], row.signals["dedup_similarity"]


def measure_search(rows: Sequence[Row], near: Near, rounds: int = 3) -> None:
    """Measure words, shingles, MinHashes and bands of rows that are in memory, as the command makes them."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        for start in range(0, len(rows), 2000):
            found = shingles([edit_words(row) for row in rows[start : start + 2000]])
            band_hashes(minhashes(found, near.permutations, near.seed), near.bands)
        seconds.append(time.process_time() - started)
    size = sum(len(str(row.old_contents)) + len(str(row.new_contents)) for row in rows) / 1e6
    median = statistics.median(seconds)
    print(f"search for near duplicates alone: {len(rows) / median:,.0f} documents, {size / median:.1f} MB per CPU s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--planted", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    near = Near()
    rows, pairs = made_edits(arguments.documents, arguments.planted, arguments.seed)
    found = shingles([edit_words(row) for row in rows])
    sets = [found.values[start:end] for start, end in zip(found.starts, found.starts[1:])]
    alike = [(one, other) for one, other in pairs if jaccard(sets[one], sets[other]) >= near.threshold]
    measure_search(rows, near)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for shards in (1, 8):
            paths = write_shards(rows, Path(name), shards)
            started = time.process_time()
            commits(["dedup", *paths, "--output", f"{name}/out-{shards}", "--jobs", "1"])
            seconds = time.process_time() - started
            results[shards] = sorted(dropped(Path(name) / f"out-{shards}"))
            size = sum(len(str(row.old_contents)) + len(str(row.new_contents)) for row in rows) / 1e6
            print(f"{shards} shards: {len(rows):,} documents, {len(rows) / seconds:,.0f} per CPU s, ", end="")
            print(f"{size / seconds:.1f} MB per CPU s, reading and writing included")
    cluster = {commit: kept for commit, kept, _ in results[1]}
    same = sum(
        cluster.get(rows[a].commit, rows[a].commit) == cluster.get(rows[b].commit, rows[b].commit) for a, b in alike
    )
    number = {row.commit: place for place, row in enumerate(rows)}
    below = [s for _, _, s in results[1] if s is not None and s < near.threshold]
    unlike = sum(
        not any(
            jaccard(sets[number[commit]], sets[number[other]]) >= near.threshold
            for other in [kept, *(each for each, its, _ in results[1] if its == kept and each != commit)]
        )
        for commit, kept, _ in results[1]
    )
    print(f"planted pairs with J >= {near.threshold}: {len(alike):,} of {len(pairs):,}")
    print(f"found of them: {same / len(alike):.4f}")
    print(f"dropped: {len(results[1]):,}; without a true partner: {unlike}, below the threshold: {len(below)}")
    print(f"1 and 8 shards: {'equal' if results[1] == results[8] else 'DIFFERENT'}")
    return 0 if results[1] == results[8] and not unlike and not below else 1


if __name__ == "__main__":
    raise SystemExit(main())
