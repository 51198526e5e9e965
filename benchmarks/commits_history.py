"""Read histories of git repositories, compare each pair with ``git show``, and print commits per CPU second.

    python -m benchmarks.commits_history REPO... [--pairs 100000]

CPU seconds are those of the command and of the git processes that it starts. Two rates: of all commits that are walked,
and of commits that become rows. Exit code 1: a pair differs from what ``git show COMMIT:PATH`` prints.
"""
# bench: cpu

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from megatron_octo.commits.history.git import find_directory
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.common.errors import OctoError


def shown(directory: Path, name: str) -> bytes | None:
    """Return what git shows of ``COMMIT:PATH``; None where there is nothing."""
    words = ["git", f"--git-dir={directory}", "-c", "core.quotePath=false", "show", name]
    done = subprocess.run(words, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def differing(directory: Path, rows: list[Row]) -> int:
    """Return how many rows hold other contents than git shows."""
    wrong = 0
    for row in rows:
        sides = {f"{row.commit}^:{row.old_file}": row.old_contents, f"{row.commit}:{row.new_file}": row.new_contents}
        for name, text in sides.items():
            wrong += shown(directory, name) != (None if text is None else text.encode())
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="+", metavar="REPO")
    parser.add_argument("--pairs", type=int, default=100_000, help="compare at most so many of a repository")
    arguments = parser.parse_args()
    wrong = 0
    for repository in arguments.repositories:
        directory = find_directory(Path(repository))
        if directory is None:
            raise OctoError("no repository of git", where=repository)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "rows"
            words = ["history", f"made/name={repository}", "--output", str(output), "--jobs", "1"]
            command = [sys.executable, "-m", "megatron_octo.commits", *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{repository}: history failed")
            manifest = json.loads((output / "stage.json").read_text())
            commits, seconds = sum(each["commits"] for each in manifest["inputs"]), usage.ru_utime + usage.ru_stime
            rows = [row for row in read_rows(output) if row.kept][: arguments.pairs]
        bad = differing(directory, rows)
        wrong += bad
        print(f"{repository}: {commits:,} commits, {manifest['rows']:,} rows, {seconds:.2f} CPU s: ", end="")
        print(f"{commits / seconds:,.0f} commits, {manifest['rows'] / seconds:,.0f} rows per CPU s; ", end="")
        print(f"{len(rows):,} pairs compared with git show, {bad} differ", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
