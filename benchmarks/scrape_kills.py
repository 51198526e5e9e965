"""Kill ``commits scrape`` at random moments, and compare its output with that of a start that was left alone.

    python -m benchmarks.scrape_kills [--kills 20] [--seed 0]

The server is a real ``git http-backend`` on loopback; its repositories have hostile file names. Exit code 1: the bytes
differ, a blob is not the one that its id names, or a file name was executed.
"""
# bench: cpu

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from megatron_octo.commits.clean.edits import blob_id
from megatron_octo.commits.rows import read_rows
from tests.commits.scrape.made import make_repository, rows_of, without_contents, write
from tests.commits.scrape.servers import http_server

REPOSITORIES = 12


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"owner{number}/made" for number in range(REPOSITORIES)]
        for number, each in enumerate(names):
            make_repository(folder / "served", each, number)
        rows = [row for each in names for row in rows_of(folder / "served", each, folder)]
        source = write(folder / "in.parquet", without_contents(rows))
        with http_server(folder / "served") as server:
            words = ["scrape", str(source), "--host-url", f"{server.url}/{{repo}}.git", "--contact", "made@example.org"]
            command = [sys.executable, "-m", "megatron_octo.commits", *words, "--rate", "20", "--output"]
            subprocess.run([*command, str(folder / "wanted.jsonl")], check=True, stdout=subprocess.DEVNULL)
            moments, kills = random.Random(arguments.seed), 0
            output = folder / "found.jsonl"
            while kills < arguments.kills:
                quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                process = subprocess.Popen([*command, str(output)], start_new_session=True, **quiet)
                time.sleep(moments.uniform(0.2, 0.8))
                os.killpg(process.pid, signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
                if output.exists():  # it was finished: begin again
                    for path in folder.glob("found.jsonl*"):
                        subprocess.run(["rm", "-rf", str(path)], check=True)
            subprocess.run([*command, str(output)], check=True, stdout=subprocess.DEVNULL)
        equal = output.read_bytes() == (folder / "wanted.jsonl").read_bytes()
        kept = [row for row in read_rows(output) if row.kept]
        pairs = [((blob_id(row.old_contents), blob_id(row.new_contents)), row) for row in kept]
        right = sum(ids == (row.old_blob, row.new_blob) for ids, row in pairs)
        executed = list(folder.rglob("EXECUTED"))
        print(f"{kills} kills; bytes {'equal' if equal else 'DIFFER'}; {right} of {len(kept)} rows have their ids")
        print(f"file names executed: {len(executed)}")
        return 0 if equal and right == len(kept) and not executed else 1


if __name__ == "__main__":
    sys.exit(main())
