"""Runs all checks of a recipe, and collects what they find."""

import errno
import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.checkpoint import directory as layout
from megatron_octo.common.errors import OctoError, users_mistake
from megatron_octo.recipe.loading import check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_directory import RunDirectory
from megatron_octo.runfiles.run_lock import sign_of_life
from megatron_octo.sizing.checkpoint_size import checkpoint_bytes
from megatron_octo.training.readiness.data_files import check_data, check_tokenizer
from megatron_octo.training.readiness.first_weights import check_start


@dataclass
class Readiness:
    """Result of all checks.

    Attributes:
        good: a line for each check that passed.
        problems: mistakes that would stop the run, by the name of the check; ``warnings``: what may stop it.
    """

    good: list[str] = field(default_factory=list)
    problems: dict[str, OctoError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def _run(self, name: str, check: Callable[[], str]) -> None:
        try:
            self.good.append(f"{name}: {check()}")
        except OctoError as error:
            self.problems[name] = error
        except OSError as error:
            self.problems[name] = users_mistake(error) or OctoError(str(error), where=error.filename)

    def lines(self) -> list[str]:
        """Return a line for each check, problems with place and hint."""
        wrong = [f"WRONG    {name}: {error}".replace("\n", "\n         ") for name, error in self.problems.items()]
        return [
            *(f"ok       {line}" for line in self.good),
            *(f"WARNING  {line}" for line in self.warnings),
            *wrong,
        ]

    def stop(self) -> None:
        """Raise all problems as one error, if there are any.

        Raises:
            OctoError: something would stop the run.
        """
        if len(self.problems) == 1:
            raise next(iter(self.problems.values()))
        if self.problems:
            items = [f"{name}: {error}".replace("\n", "\n  ") for name, error in self.problems.items()]
            raise OctoError("\n- ".join([f"{len(items)} things would stop this run", *items]))


def check_recipe(recipe: Recipe, ranks: int | None = None, *, data: bool = True, lock: bool = True) -> Readiness:
    """Look for everything that would stop a run, in a second or two and without changing anything.

    Args:
        recipe: its relative paths are looked up from the working directory.
        ranks: processes that will train; None: one replica's.
        data: look at data sets and tokenizer; false where a stage before the training makes them.
        lock: look whether another process trains in the run directory.
    """
    found = Readiness()
    run = RunDirectory(recipe, is_main=True)
    found._run("layout", lambda: _layout(recipe, ranks or recipe.parallel.layout.model_ranks))
    tokenizer: list[str | None] = [None]
    if data:
        found._run("data.train", lambda: check_data(recipe, "data.train", tokenizer))
        if recipe.data.valid:
            found._run("data.valid", lambda: check_data(recipe, "data.valid", tokenizer))
        if recipe.data.tokenizer:
            found._run("data.tokenizer", lambda: check_tokenizer(recipe, run, tokenizer))
    found._run("weights", lambda: check_start(recipe, run, tokenizer[0]))
    found._run("run_dir", lambda: _place(run.path))
    if recipe.data.plan_cache:
        found._run("data.plan_cache", lambda: _place(Path(str(recipe.data.plan_cache))))
    if lock:
        found._run("lock", lambda: _lock(run.path, found.warnings))
    if recipe.system.preflight != "none":
        found._run("disk", lambda: _disk(recipe, run, found.warnings))
    if recipe.log.wandb_project:
        found._run("log.wandb_project", _wandb)
    return found


def _layout(recipe: Recipe, ranks: int) -> str:
    replicas = recipe.parallel.layout.replicas(ranks)
    micro = check_batch(recipe, replicas)
    return f"{replicas} x {recipe.parallel.layout.model_ranks} ranks, {micro} micro-batch{'es' * (micro > 1)} per step"


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _place(path: Path) -> str:
    there = _existing(path)
    if not there.is_dir():
        code = errno.ENOTDIR if there != path else errno.EEXIST
        raise OSError(code, os.strerror(code), str(path))
    if not os.access(there, os.W_OK | os.X_OK):
        code = errno.EROFS if os.statvfs(there).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(there))
    return f"{path} can be written" if there == path else f"{path} can be made in {there}"


def _lock(run: Path, warnings: list[str]) -> str:
    owner, age = sign_of_life(run)
    if owner is None or (owner.job and owner.job == os.environ.get("SLURM_JOB_ID")):
        return "free"
    if owner.host == socket.gethostname():
        raise OctoError(
            f"another process trains in this run directory: {owner}",
            where=run / "lock",
            hint="wait for it or end it; a second run needs another run_dir",
        )
    warnings.append(f"{owner} may be training in this run directory: it touched the lock {age:.0f} s ago")
    return f"held by {owner}"


def _disk(recipe: Recipe, run: RunDirectory, warnings: list[str]) -> str:
    newest = layout.candidates(run.checkpoints)[:1]
    if newest and layout.step_of(newest[0]) >= recipe.train.steps:
        return "the run is finished"
    if warning := check_space(recipe, run):
        warnings.append(warning)
    size = checkpoint_bytes(recipe.model, recipe.compute) if recipe.checkpoint.interval else 0
    return f"{size / 1e9:.3g} GB per checkpoint, {shutil.disk_usage(_existing(run.path)).free / 1e9:,.0f} GB free"


def check_space(recipe: Recipe, run: RunDirectory) -> str | None:
    """Return a warning if the disk cannot hold as many checkpoints as are to be kept, else None.

    Raises:
        OctoError: there is no room for one.
    """
    if not recipe.checkpoint.interval:
        return None
    size = checkpoint_bytes(recipe.model, recipe.compute)
    free = shutil.disk_usage(_existing(run.path)).free
    there = len(layout.list_checkpoints(run.checkpoints))
    if free < size:
        raise OctoError(
            f"no space left for the next checkpoint: it takes {size / 1e9:.3g} GB, {free / 1e9:.3g} GB are free",
            where=run.path,
            hint="free some space, or put run_dir on a larger disk; nothing was started",
        )
    # One more than is kept, while the newest is written.
    wanted = (max(0, recipe.checkpoint.keep - there) + 1) * size
    if free < wanted:
        keep = f"checkpoint.keep {recipe.checkpoint.keep}"
        return f"{free / 1e9:.3g} GB of disk are free, {keep} needs {wanted / 1e9:.3g}"
    return None


def _wandb() -> str:
    if importlib.util.find_spec("wandb") is None:
        raise OctoError(
            "log.wandb_project is set, but wandb is not installed",
            where="log.wandb_project",
            hint="pip install -e '.[wandb]', or log.wandb_project=null",
        )
    return "wandb is installed"
