"""Directory of a run: everything about it, most of it in text files."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import megatron_octo
from megatron_octo.checkpoint import directory as layout
from megatron_octo.common import files
from megatron_octo.common.errors import OctoError
from megatron_octo.common.quoting import masked_words
from megatron_octo.recipe.loading import dump_recipe
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.attempts import METRICS, RECIPE, STATE, VALIDATION
from megatron_octo.runfiles.run_lock import RunLock
from megatron_octo.runfiles.samples import last_attempt
from megatron_octo.runfiles.steps import end_last_line, read_metrics

__all__ = ["RunDirectory", "code_version", "environment", "read_metrics"]

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
    """Return the package's version, and the git commit that it runs from, if any (``+`` marks local changes)."""
    root = Path(megatron_octo.__file__).parent.parent
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return megatron_octo.__version__
    return f"{megatron_octo.__version__} ({commit.stdout.strip()}{'+' if status.stdout.strip() else ''})"


def environment() -> dict[str, Any]:
    """Return versions, host, GPUs and command of this process, for the record of an attempt."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    import torch  # here: checks before a start need the directory, and no torch

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
    """Files of a run that rank 0 writes. The other ranks use the paths alone.

    Attributes:
        attempt: number of this attempt; 0 before it is opened.
    """

    def __init__(self, recipe: Recipe, is_main: bool):
        self.path = Path(recipe.run_dir)
        self.checkpoints = self.path / layout.CHECKPOINTS
        self.is_main = is_main
        self.attempt = 0

    def remove_leftovers(self) -> None:
        """Remove what killed writers of this run left beside its records; only for the owner."""
        # By name: other programs may be writing into the directory now, as inspect does with its page.
        for name in (STATE, RECIPE, "tokenizer.json"):
            files.remove_leftovers(self.path, name)
        files.remove_leftovers(self.path / records.ATTEMPTS)
        files.remove_leftovers(self.path / "plans", ".*.lock")  # a lease that is being taken is tried again

    def open_attempt(self, recipe: Recipe, world: int, corpora: str, kernels: dict[str, str] | None = None) -> None:
        """Record that the run is started (again); on rank 0.

        ``recipe.yaml`` stays what the run was last trained with (:meth:`begin_training`); a new run gets its first one.

        Args:
            recipe: of this start.
            world: number of ranks.
            corpora: digest of the data.
            kernels: what it computes with (see records.Attempt).

        Raises:
            OctoError: the tokenizer is another one than before.
        """
        if not self.is_main:
            return
        self.check_tokenizer(recipe.data.tokenizer)
        attempts = self.path / records.ATTEMPTS
        attempts.mkdir(parents=True, exist_ok=True)
        (self.path / "logs").mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        self.remove_leftovers()
        self.attempt = self.next_attempt()
        if not (self.path / RECIPE).exists():
            self.begin_training(recipe)
        self._keep_tokenizer(recipe.data.tokenizer)
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
            end_last_line(self.path / name)

    def begin_training(self, recipe: Recipe) -> None:
        """Write ``recipe.yaml``: from now on the run is trained with this recipe; on rank 0."""
        if self.is_main:
            with files.atomic_write(self.path / RECIPE, "w") as file:
                file.write(dump_recipe(recipe))

    def earlier_kernels(self) -> dict[str, str]:
        """Return the kernels of the last attempt before this one that named any; on rank 0."""
        if not self.is_main:
            return {}
        earlier = [each for each in records.read_attempts(self.path, print) if each.number < self.attempt]
        return next((attempt.kernels for attempt in reversed(earlier) if attempt.kernels), {})

    def next_attempt(self) -> int:
        """Return a number above those of all attempts so far, also of those whose records were removed."""
        return 1 + max([*records.attempt_numbers(self.path), last_attempt(self.path)])

    def lock(self) -> RunLock | None:
        """Take the lock that keeps other attempts out of the directory; on rank 0.

        Raises:
            OctoError: another one trains here.
        """
        return RunLock.acquire(self.path, self.next_attempt()) if self.is_main else None

    def check_tokenizer(self, source: str | None) -> None:
        """Compare a tokenizer.json with the run's, if it has one; on rank 0.

        Raises:
            OctoError: the run was made with another tokenizer.
        """
        target = self.path / "tokenizer.json"
        if source is None or not self.is_main or not target.exists():
            return
        if files.digest_file(target) != files.digest_file(source):
            raise OctoError(
                "this run was made with another tokenizer", where=source, hint=f"expected the one in {target}"
            )

    def _keep_tokenizer(self, source: str | None) -> None:
        target = self.path / "tokenizer.json"
        if source is not None and not target.exists():
            with files.atomic_write(target) as out, open(source, "rb") as original:
                shutil.copyfileobj(original, out)

    def end_attempt(self, reason: str, code: int, step: int) -> None:
        """Record how a whole attempt ended; a rank that fails records it itself (supervision/error_policy.py)."""
        if self.is_main:
            records.end_attempt(self.path, self.attempt, reason=reason, exit_code=code, last_step=step)

    def write_state(self, status: str, step: int, **more: Any) -> None:
        """Write ``state.json``: running, stopped (saved, to be started again) or finished; on rank 0."""
        if self.is_main:
            record = {"status": status, "step": step, "attempt": self.attempt, "updated": time.time(), **more}
            files.write_json(self.path / STATE, record)
