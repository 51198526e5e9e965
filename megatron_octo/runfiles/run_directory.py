"""The directory of a run: everything about it, in files that a person can read."""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import megatron_octo
from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import files
from megatron_octo.common.errors import OctoError
from megatron_octo.common.quoting import masked_words
from megatron_octo.recipe.loading import dump_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import METRICS, STATE, VALIDATION
from megatron_octo.runfiles.run_lock import RunLock

_PACKAGES = (
    "torch",
    "megatron-core",
    "transformer-engine",
    "flash-attn-4",
    "quack-kernels",
    "numpy",
    "safetensors",
    "tokenizers",
)


def code_version() -> str:
    """The package's version, and the git commit it runs from if there is one (``+`` marks local changes)."""
    root = Path(megatron_octo.__file__).parent.parent
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return megatron_octo.__version__
    return f"{megatron_octo.__version__} ({commit.stdout.strip()}{'+' if status.stdout.strip() else ''})"


def environment() -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "code": code_version(),
        "python": platform.python_version(),
        "packages": versions,
        "host": socket.gethostname(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
        "command": masked_words(sys.argv),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


class RunDirectory:
    """What rank 0 keeps of a run. The other ranks know the paths and write none of these files."""

    def __init__(self, recipe: Recipe, is_main: bool):
        self.path = Path(recipe.run_dir)
        self.checkpoints = self.path / layout.CHECKPOINTS
        self.is_main = is_main
        self.attempt = 0

    def open_attempt(
        self, recipe: Recipe, world: int, corpora: str, kernels: dict[str, str] | None = None
    ) -> None:
        """Record that the run is started (again): recipe, environment, digest of the data, number of the attempt, and
        which kernels it computes with (see records.Attempt).
        """
        if not self.is_main:
            return
        attempts = self.path / records.ATTEMPTS
        attempts.mkdir(parents=True, exist_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        # By name: other programs may be writing into the directory now, as inspect does with its page.
        for name in (STATE, "recipe.yaml", "tokenizer.json"):
            files.remove_leftovers(self.path, name)
        files.remove_leftovers(attempts)
        self.attempt = self.next_attempt()
        text = dump_recipe(recipe)
        with files.atomic_write(self.path / "recipe.yaml", "w") as file:
            file.write(text)
        records.begin_attempt(
            self.path,
            self.attempt,
            world=world,
            environment=environment(),
            corpora=corpora,
            **(kernels or {}),
            recipe=recipe.model_dump(),
        )
        for name in (METRICS, VALIDATION):
            self._end_last_line(self.path / name)

    def earlier_kernels(self) -> dict[str, str]:
        """What the last attempt before this one that said so computed with, as the network names it; on rank 0."""
        if not self.is_main:
            return {}
        earlier = [each for each in records.read_attempts(self.path, print) if each.number < self.attempt]
        return next((attempt.kernels for attempt in reversed(earlier) if attempt.kernels), {})

    def next_attempt(self) -> int:
        return 1 + max(records.attempt_numbers(self.path), default=0)

    def lock(self) -> RunLock | None:
        """Keep other attempts out of the directory; on rank 0.

        Raises:
            OctoError: another one trains here.
        """
        return RunLock.acquire(self.path, self.next_attempt()) if self.is_main else None

    def _end_last_line(self, path: Path) -> None:
        """A kill can cut the last line short; drop what is left of it."""
        if not path.exists():
            return
        with open(path, "r+b") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)

    def keep_tokenizer(self, source: str | None) -> None:
        """Copy tokenizer.json into the run.

        Raises:
            OctoError: the run was made with another tokenizer.
        """
        if source is None or not self.is_main:
            return
        target = self.path / "tokenizer.json"
        if target.exists() and files.digest_file(target) != files.digest_file(source):
            raise OctoError(
                "this run was made with another tokenizer", where=source, hint=f"expected the one in {target}"
            )
        if not target.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            with files.atomic_write(target) as out, open(source, "rb") as original:
                shutil.copyfileobj(original, out)

    def end_attempt(self, reason: str, code: int, step: int) -> None:
        """Record how a whole attempt ended; failures are recorded by the rank that meets them (supervise.py)."""
        if self.is_main:
            records.end_attempt(self.path, self.attempt, reason=reason, exit_code=code, last_step=step)

    def write_state(self, status: str, step: int, **more: Any) -> None:
        """``state.json``: running, stopped (saved, to be started again) or finished."""
        if self.is_main:
            record = {"status": status, "step": step, "attempt": self.attempt, "updated": time.time(), **more}
            files.write_json(self.path / STATE, record)


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Metrics of every step in order; where a step was computed again after a restart, the later ones count."""
    steps: dict[int, dict[str, Any]] = {}
    with open(Path(run) / METRICS, encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                record = json.loads(line)
                steps[record["step"]] = record
    return [steps[step] for step in sorted(steps)]
