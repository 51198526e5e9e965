"""What a rank stores of a run's state, and how the state comes back (the format is in megatron_octo.checkpoint).

Every rank stores what it alone owns: data-parallel rank 0 its weights, every rank its shard of Adam's state. Loading
asks for boxes of whole tensors, so any tensor, pipeline and data parallelism reads any other's checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from megatron_octo.architectures.parameters import WORD_EMBEDDINGS, ParameterSpec
from megatron_octo.checkpoint.directory import Fragment, TensorEntry
from megatron_octo.checkpoint.rank_parts import Entries
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_writer import DTYPE_NAMES, TensorSpec
from megatron_octo.common.errors import OctoError
from megatron_octo.model.mcore_gpt import DTYPES
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.weights import Held, held_parameters
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.optimizer import MOMENTS, Optimizer, Shard
from megatron_octo.training.engine.randomness import random_states, set_random_states


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: what it will be there, and how to get its present value."""

    spec: TensorSpec
    read: Callable[[], Tensor]


@dataclass
class Part:
    """What one rank stores: its files, tensor by tensor in their order, and their place in the whole model."""

    files: dict[str, dict[str, Stored]] = field(default_factory=dict)
    tensors: Entries = field(default_factory=dict)

    def add(self, kind: str, spec: ParameterSpec, fragment: Fragment, stored: Stored) -> None:
        self.files.setdefault(fragment.file, {})[fragment.key] = stored
        self.refer(kind, spec, fragment, stored.spec[0])

    def refer(self, kind: str, spec: ParameterSpec, fragment: Fragment, dtype: torch.dtype) -> None:
        """Say that a fragment, stored for another kind, is one of this kind, too, once it is rounded to ``dtype``."""
        entries = self.tensors.setdefault(kind, {})
        others = entries[spec.name].fragments if spec.name in entries else ()
        entries[spec.name] = TensorEntry(spec.shape, DTYPE_NAMES[dtype], (*others, fragment))


def _owned(model: torch.nn.Module, recipe: Recipe, grid: Grid) -> list[Held]:
    """Parameters that this rank stores: no frozen ones, no copies that others store, too."""
    found = []
    for held in held_parameters(model, recipe.model, recipe.compute, grid):
        tied_copy = held.spec.name == WORD_EMBEDDINGS and not grid.is_first_stage
        if held.parameter.requires_grad and not tied_copy and (not held.shared or grid.tensor_rank == 0):
            found.append(held)
    return found


def weights_part(
    model: torch.nn.Module, recipe: Recipe, grid: Grid, dtype: torch.dtype | None = None
) -> Part:
    """The weights that this rank stores, rounded to ``dtype``; nothing unless it is data-parallel rank 0."""
    part = Part()
    file = f"weights-tp{grid.tensor_rank:02d}-pp{grid.pipeline_rank:02d}.safetensors"
    for held in _owned(model, recipe, grid) if grid.data_rank == 0 else []:
        stored = Stored((dtype or held.parameter.dtype, held.shape), held.parameter.detach)
        part.add("weights", held.spec, Fragment(file, held.key, held.offset, held.shape), stored)
    return part


def full_part(model: torch.nn.Module, optimizer: Optimizer, recipe: Recipe, grid: Grid) -> Part:
    """All that this rank stores to resume from: weights, shards of the optimizer, random states.

    The weights of a bf16 run are its fp32 weights, rounded: these alone are stored.
    """
    whole = recipe.train.precision == "fp32"
    part = weights_part(model, recipe, grid) if whole else Part()
    file = f"optimizer-{grid.rank:05d}.safetensors"
    owned = {held.parameter: held for held in _owned(model, recipe, grid)}
    kinds = dict.fromkeys(MOMENTS, (file, DTYPES[recipe.optimizer.state_dtype]))
    if not whole:
        # In a file of its own: whoever wants weights alone reads no more.
        kinds["main"] = (f"main-{grid.rank:05d}.safetensors", torch.float32)
    for shard in optimizer.shards():
        if shard.parameter not in owned:
            continue
        held = owned[shard.parameter]
        for kind, (name, dtype) in kinds.items():
            flat = (shard.start, shard.end)
            fragment = Fragment(name, f"{kind}/{held.key}", held.offset, held.shape, flat)
            stored = Stored((dtype, (shard.end - shard.start,)), partial(_flat, shard, kind))
            part.add(kind, held.spec, fragment, stored)
            if kind == "main":
                part.refer("weights", held.spec, fragment, held.parameter.dtype)
    for key, state in random_states(grid).items():
        stored = Stored((state.dtype, tuple(state.shape)), partial(_random_state, grid, key))
        part.files.setdefault(file, {})[key] = stored
    return part


def _flat(shard: Shard, kind: str) -> Tensor:
    return shard.read(kind).reshape(-1)


def _random_state(grid: Grid, key: str) -> Tensor:
    return random_states(grid)[key]


def load_checkpoint(
    reader: CheckpointReader, model: torch.nn.Module, optimizer: Optimizer, recipe: Recipe, grid: Grid
) -> bool:
    """Restore what is trained, the optimizer and the random states. Every number is read by the rank that updates it.

    Collective: the ranks gather each other's weights.

    Returns:
        Whether the random states were restored, too: they belong to one parallel layout.

    Raises:
        OctoError: the checkpoint holds weights only, is incomplete or damaged.
    """
    manifest = reader.manifest
    if not manifest.tensors.get(MOMENTS[0]):
        raise OctoError(
            "this checkpoint holds weights only, there is nothing to resume",
            where=reader.directory,
            hint="name it in checkpoint.init_from",
        )
    holdings = {held.parameter: held for held in held_parameters(model, recipe.model, recipe.compute, grid)}
    main = "main" if "main" in manifest.tensors else "weights"  # an fp32 run's weights are its fp32 weights
    steps = int(manifest.state["optimizer_steps"])
    for shard in optimizer.shards():
        held = holdings[shard.parameter]
        box = held.offset, held.shape
        sources = {"main": main, **{name: name for name in MOMENTS}}
        shard.write(
            {
                target: reader.read_flat(held.spec.name, kind, *box, shard.start, shard.end)
                for target, kind in sources.items()
            },
            steps,
        )
    optimizer.restored(steps)
    if manifest.layout != grid.layout.sizes():
        return False
    return _restore_random_states(reader, grid)


def _restore_random_states(reader: CheckpointReader, grid: Grid) -> bool:
    file = f"optimizer-{grid.rank:05d}.safetensors"
    # In this order the next checkpoint has them: its bytes do not depend on restarts.
    keys = list(random_states(grid))
    if set(keys) != set(reader.keys(file, "random/")):  # another device
        return False
    set_random_states({key: reader.state(file, key) for key in keys}, grid)
    return True
