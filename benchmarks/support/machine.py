"""The record of a result: versions, GPUs and command, without names of hosts and folders."""

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

from megatron_octo.runfiles.run_directory import environment


def machine() -> dict[str, Any]:
    """Return versions, GPUs, cores, and the command as it is typed."""
    known = environment()
    kept = {key: known[key] for key in ("python", "packages", "gpus", "cuda")}
    return {
        **kept,
        "cores": os.cpu_count(),
        "command": command(),
    }


def command() -> str:
    """Return the benchmark's command as it is typed, without ``--output``."""
    words = sys.argv[1:]
    if "--output" in words:
        at = words.index("--output")
        del words[at : at + 2]
    return " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *words])


def keep(output: Path | None, row: dict[str, Any]) -> None:
    """Append a result with the date to a file of JSON lines; None: keep nothing."""
    row = {**row, "date": date.today().isoformat()}
    if output:
        with open(output, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
