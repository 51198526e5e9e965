"""Other versions of this project beside the present one, run by the same Python."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Tree:
    """A directory with a version of the project; commands run in it with its code."""

    path: Path

    def command(self, module: str, *words: str | Path) -> list[str]:
        """Return the command line of a module of the tree."""
        return [sys.executable, "-m", module, *map(str, words)]

    def environment(self, gpu: bool) -> dict[str, str]:
        """Return the environment in which the tree's packages come before the installed ones."""
        hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, "PYTHONPATH": str(self.path), "OMP_NUM_THREADS": "1", **hidden}

    def run(self, command: Sequence[str], gpu: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command line in the tree to its end, with its output captured; ``gpu``: GPUs stay visible."""
        environment = self.environment(gpu)
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True)

    def call(self, module: str, *words: str | Path) -> str:
        """Run a module with arguments; returns its output.

        Raises:
            RuntimeError: it ended with another exit code than 0; the message holds the end of its output.
        """
        done = self.run(self.command(module, *words))
        if done.returncode:
            raise RuntimeError(
                f"exit code {done.returncode} of {module} {' '.join(map(str, words))}\n"
                f"{(done.stdout + done.stderr)[-600:]}"
            )
        return done.stdout + done.stderr


def extract(commit: str, folder: Path) -> Tree:
    """Write the files of a commit of this repository into an empty folder."""
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=PROJECT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return Tree(folder)
