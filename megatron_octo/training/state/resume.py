"""Start of a run: from its newest good checkpoint, from the weights of another run, or fresh."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.adapter_base import base_record
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.data.row_stream import Position
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.datasets import Corpora
from megatron_octo.training.engine.network import Network
from megatron_octo.training.state.checkpoint_choice import base_of, check_tokenizer, weights_of
from megatron_octo.training.state.state_parts import load_checkpoint


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
    reader: CheckpointReader | None,
    network: Network,
    recipe: Recipe,
    grid: Grid,
    corpora: Corpora,
    say: Callable[[str], None],
) -> RunState:
    """Give the network its weights and, if the run has a checkpoint, all other state that belongs to it. Collective.

    Args:
        reader: the run's checkpoint, which matches recipe and data (checkpoint_choice.py), None if it has none.
        say: prints a line.

    Raises:
        OctoError: weights to start from are missing or damaged, or of another tokenizer or shape.
    """
    if reader is None:
        source = recipe.checkpoint.init_from
        start = weights_of(source, recipe, grid) if source else None
        if start:
            check_tokenizer(start.manifest.tokenizer, corpora.tokenizer, start.directory)
        network.start_from(start)
        fresh = f"fresh start, seed {recipe.train.seed}"
        say(f"starting from the weights of {start.directory}" if start else fresh)
        return RunState(base=base_record(start) if start and recipe.lora else {})
    base = base_of(reader, recipe, grid) if recipe.lora else None
    network.start_from(base, resumed=True)
    exact = load_checkpoint(reader, network.core, network.optimizer, recipe, grid)
    state, step = reader.manifest.state, reader.manifest.step
    position = Position(**state["position"])
    if not exact:
        grid.seed(recipe.train.seed + step)
    how = "everything restored" if exact else "another parallel layout: dropout's random state starts anew"
    say(f"resuming at step {step} (epoch {position.epoch}, row {position.row}): {how}")
    return RunState(step, position, base_record(base) if base else {}, state.get("guard"))


def tidy(folder: Path, recipe: Recipe, step: int) -> None:
    """Remove what a kill left of a save, and old checkpoints that it kept the last save from removing.

    Args:
        folder: the run's checkpoints; this process owns the run.
        step: at which the run goes on.
    """
    layout.sweep(folder)
    with contextlib.suppress(OSError):  # the next save reports it
        layout.prune(folder, recipe.checkpoint.keep, step, recipe.checkpoint.keep_every)
