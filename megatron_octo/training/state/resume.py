"""Start of a run: from its newest good checkpoint, from the weights of another run, or fresh."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.adapter_base import base_record
from megatron_octo.checkpoint.fit import check_fit
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.source import Source
from megatron_octo.data.row_stream import Position
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.datasets import Corpora
from megatron_octo.training.engine.network import Network
from megatron_octo.training.engine.randomness import set_random_states
from megatron_octo.training.readiness.first_weights import check_continues
from megatron_octo.training.state.checkpoint_choice import (
    base_of,
    check_whole,
    load_newest,
    weights_of,
)
from megatron_octo.training.state.state_parts import load_state


@dataclass(frozen=True)
class RunState:
    """Training state outside the network.

    Attributes:
        step: number of steps done; ``position``: the next row of the data.
        base: the frozen weights beside which adapters are trained.
        guard: state of the loss guard (training/engine/loss_guard.py).
    """

    step: int = 0
    position: Position = field(default_factory=Position)
    base: dict[str, str] = field(default_factory=dict)
    guard: dict[str, Any] | None = None


def resume(
    network: Network, recipe: Recipe, grid: Grid, corpora: Corpora, folder: Path, say: Callable[[str], None]
) -> RunState:
    """Give the network its weights and, if the run has a checkpoint, all other state that belongs to it. Collective.

    Args:
        network: not started yet.
        recipe: of this start.
        grid: all ranks.
        corpora: the run's data.
        folder: the run's checkpoints.
        say: prints a line.

    Raises:
        OctoError: the checkpoint belongs to other data, another tokenizer, shape or adapters, or none is whole.
    """
    base: Source | None = None
    random: dict[str, Tensor] | None = None

    def check(reader: CheckpointReader) -> None:
        nonlocal base
        check_continues(reader.manifest, reader.directory, recipe, corpora.digest, corpora.tokenizer)
        if not network.started:
            base = base_of(reader, recipe, grid) if recipe.lora else None
            network.start_from(base, resumed=True)

    def load(reader: CheckpointReader) -> None:
        nonlocal random
        random = load_state(reader, network.core, network.optimizer, recipe, grid)

    reader = load_newest(folder, grid, say, check, load)
    if reader is None:
        source = recipe.checkpoint.init_from
        start = weights_of(source, recipe, grid) if source else None
        if start:
            check_fit(start.manifest, recipe.model, corpora.tokenizer, start.directory)
        network.start_from(start)
        if start:
            check_whole(start, grid)
        say(f"starting from the weights of {start.directory}" if start else f"fresh start, seed {recipe.train.seed}")
        return RunState(base=base_record(start) if start and recipe.lora else {})
    if base:
        check_whole(base, grid)
    state = reader.manifest.state
    network.optimizer.restored(int(state["optimizer_steps"]))
    exact = random is not None
    if random is not None:
        set_random_states(random, grid)
    step, position = reader.manifest.step, Position(**state["position"])
    how = "everything restored" if exact else "another parallel layout: dropout's random state starts anew"
    if not exact:
        grid.seed(recipe.train.seed + step)
    say(f"resuming at step {step} (epoch {position.epoch}, row {position.row}): {how}")
    return RunState(step, position, base_record(base) if base else {}, state.get("guard"))


def tidy(folder: Path, recipe: Recipe, step: int) -> None:
    """Remove what a kill left of a save, and old checkpoints that it kept the last save from removing.

    Args:
        folder: the run's checkpoints; this process owns the run.
        recipe: how many to keep.
        step: at which the run goes on.
    """
    layout.sweep(folder)
    with contextlib.suppress(OSError):  # the next save reports it
        layout.prune(folder, recipe.checkpoint.keep, step, recipe.checkpoint.keep_every)
