"""Results: what they were measured on and with, without names of hosts and folders, and where they are kept."""

import json
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

from megatron_octo.runfiles.run_directory import environment


def machine() -> dict[str, Any]:
    """Versions, GPUs, cores, and the command as a person types it."""
    known = environment()
    kept = {key: known[key] for key in ("python", "packages", "gpus", "cuda")}
    return {
        **kept,
        "cores": os.cpu_count(),
        "command": command(),
    }


def command() -> str:
    """The benchmark's command as a person types it, without where its result goes."""
    words = sys.argv[1:]
    if "--output" in words:
        at = words.index("--output")
        del words[at : at + 2]
    return " ".join([f"python -m benchmarks.{Path(sys.argv[0]).stem}", *words])


def keep(output: Path | None, row: dict[str, Any]) -> None:
    """Append a result, with the date, to a file of JSON lines, if there is one."""
    row = {**row, "date": date.today().isoformat()}
    if output:
        with open(output, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
