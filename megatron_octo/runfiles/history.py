"""Settings of a run over its attempts: what changed, what that means, which steps each contributed. No torch."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import regular
from megatron_octo.recipe.loading import build_recipe, flat
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles import attempts as records
from megatron_octo.runfiles.samples import read_samples

# Effect of a changed key on a run that is resumed; the longest matching prefix counts.
_EFFECTS = {
    "": "holds from the next step on",
    "model.": "holds from the next step on; the weights stay",
    "model.init_std": "without effect: the weights are there already",
    "parallel.": "the same rows and weights; dropout draws other numbers",
    "data.train": "refused unless it means the same rows",
    "data.tokenizer": "refused unless it is the same tokenizer",
    "data.seq_length": "refused: other rows",
    "data.valid": "validation losses before and after are of different data",
    "data.plan_cache": "plans are read or made there",
    "data.verify": "holds for this start",
    "batch.": "the data go on at the same row, in steps of another size",
    "batch.micro_size": "the same steps, computed in other pieces",
    "schedule.": "the learning rate follows the new curve from the next step on",
    "optimizer.lr": "the learning rate follows the new curve from the next step on",
    "optimizer.min_lr": "the learning rate follows the new curve from the next step on",
    "optimizer.state_dtype": "the state is rounded to it",
    "train.steps": "training ends there; without schedule.decay_steps the learning rate's curve is stretched to it",
    "train.seed": "refused: other rows",
    "train.precision": "the same fp32 weights, computed in another precision",
    "checkpoint.": "holds for the checkpoints to come",
    "checkpoint.init_from": "without effect: the run goes on from its own checkpoint",
    "lora": "refused: other adapters",
    "system.": "the same numbers",
    "system.device": "other kernels: it will not go on to the last bit",
    "system.layers": "other kernels: it will not go on to the last bit",
    "system.attention": "other kernels: it will not go on to the last bit",
    "system.mlp": "other kernels: it will not go on to the last bit",
    "system.cross_entropy": "other kernels: it will not go on to the last bit",
    "log.": "holds for the records to come",
    "eval.": "holds for the validations to come",
}


@dataclass(frozen=True)
class Change:
    """A setting that differs between two recipes."""

    key: str
    old: Any
    new: Any

    @property
    def effect(self) -> str:
        """What the change means for a run that is resumed."""
        return _EFFECTS[max((prefix for prefix in _EFFECTS if self.key.startswith(prefix)), key=len)]

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.old)} -> {_shown(self.new)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return what differs between two recipes as plain mappings, except where the run lies.

    Keys that the older one does not have, since an earlier version wrote it, count with their defaults.
    """
    with contextlib.suppress(OctoError):  # of a version with other keys
        old = build_recipe({**old, "run_dir": "-"}).model_dump()
    before, after = flat(old), flat(new)
    keys = [key for key in {**after, **before} if key != "run_dir"]
    return [Change(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def trained_recipe(run: str | Path) -> dict[str, Any] | None:
    """Return the recipe that the run was last trained with, as a plain mapping; None if that cannot be read."""
    try:
        tree = yaml.safe_load(regular(Path(run) / records.RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def changed_settings(run: str | Path, recipe: Recipe) -> list[Change]:
    """Return what differs between a recipe and the one that the run was last trained with."""
    before = trained_recipe(run)
    return changes(before, recipe.model_dump()) if before else []


def described(found: Sequence[Change]) -> list[str]:
    """Return a line per effect, with all changes that have it."""
    effects = dict.fromkeys(change.effect for change in found)
    return [
        f"changed: {'; '.join(str(change) for change in found if change.effect == effect)} ({effect})"
        for effect in effects
    ]


@dataclass(frozen=True)
class Contribution:
    """Steps of one attempt that are part of a model.

    Attributes:
        first, last: steps; all between them are of this attempt.
        recipe: with which they were trained, as a plain mapping.
        changed: settings that differ from those of the contribution before.
    """

    attempt: int
    first: int
    last: int
    date: str
    world: int
    recipe: dict[str, Any]
    changed: list[Change]


def contributions(run: str | Path, step: int) -> list[Contribution]:
    """Return which attempts trained the model of a step, in order; empty if the run's records do not say.

    Steps that a later attempt computed again count for that one.
    """
    try:
        samples = read_samples(run)
        samples = samples[samples["step"] <= step]
        found: list[Contribution] = []
        for number in dict.fromkeys(samples["attempt"].tolist()):
            steps = samples["step"][samples["attempt"] == number]
            recipe, attempt = records.attempt_recipe(run, number), records.read_attempt(run, number)
            date = time.strftime("%Y-%m-%d", time.gmtime(attempt.started))
            changed = changes(found[-1].recipe, recipe) if found else []
            first, last = int(np.min(steps)), int(np.max(steps))
            found.append(Contribution(number, first, last, date, attempt.world, recipe, changed))
    except (OctoError, OSError, LookupError, TypeError, ValueError):
        return []
    return found
