"""Find the prompts of HumanEvalPack in rows, as they are and rewritten, and measure both passes.

    python -m benchmarks.commits_decontaminate --data DIR [--rows FILE]

Each of the 984 prompts is planted in a file: verbatim, with tabs, with two spaces, without indentation, in upper case.
Prints the share that is found, MB per CPU second of the exact pass and of both, and the real rows that it would drop.
"""
# bench: cpu

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

from megatron_octo.commits.clean.benchmark_texts import Source, parse_source, read_texts
from megatron_octo.commits.clean.contamination import Finder
from megatron_octo.commits.rows import Row, read_rows

REWRITTEN: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "with tabs": lambda text: text.replace("    ", "\t"),
    "with two spaces": lambda text: text.replace("    ", "  "),
    "without indentation": lambda text: re.sub(r"(?m)^[ \t]+", "", text),
    "in upper case": str.upper,
    "with CRLF": lambda text: text.replace("\n", "\r\n"),
}


def prompts_found(finder: Finder, source: Source, rewrite: Callable[[str], str]) -> tuple[int, int]:
    """Plant all prompts; returns how many are found by the exact pass, and how many there are."""
    found = count = 0
    for text in read_texts(source):
        if text.where.endswith("/prompt"):
            file = f"# a file\nvalue = 1\n\n{rewrite(text.text)}\n    return value\n"
            row = Row("a" * 40, old_contents="value = 1\n", new_contents=file)
            found += any(hit.exact and hit.where.endswith("/prompt") for hit in finder.hits(row))
            count += 1
    return found, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder with HumanEvalPack's rows")
    parser.add_argument("--rows", help="real rows")
    arguments = parser.parse_args()
    source = parse_source(f"humanevalpack={arguments.data}")
    finder = Finder(list(read_texts(source)))
    print(f"{len(finder.texts):,} texts, {len(finder.left_out):,} left out as too short")
    for name, rewrite in REWRITTEN.items():
        found, count = prompts_found(finder, source, rewrite)
        print(f"prompts {name}: {found} of {count}")
    if arguments.rows:
        rows = list(read_rows(arguments.rows))
        texts = [text for row in rows for text in (row.old_contents, row.new_contents) if text]
        size = sum(map(len, texts)) / 1e6
        started = time.process_time()
        for text in texts:
            finder.exact(text)
        exact = time.process_time() - started
        started = time.process_time()
        hits = [(row, listed) for row in rows if (listed := finder.hits(row))]
        both = time.process_time() - started
        print(f"{size:.1f} MB: {size / exact:.0f} MB per CPU s in the exact pass, {size / both:.0f} in both")
        print(f"real rows that would be dropped: {len(hits)} of {len(rows):,}")
        for row, listed in hits:
            print(f"  {row.commit} {row.new_file}: {listed[0]}")


if __name__ == "__main__":
    main()
