"""State of a run by rank: what each stores, and how it is restored (the format is in megatron_octo.checkpoint).

Every rank stores what it alone owns: data-parallel rank 0 its weights, every rank its shard of the optimizer's state.
Loading reads boxes of whole tensors, so any tensor, pipeline and data parallelism reads any other's checkpoint.
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
from megatron_octo.config.optimizer_state import state_kinds
from megatron_octo.model.mcore_gpt import DTYPES
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.weights import Held, held_parameters
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.optimizer import Optimizer, Shard
from megatron_octo.training.engine.randomness import random_states, set_random_states


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its dtype and shape there, and a function that returns its present value."""

    spec: TensorSpec
    read: Callable[[], Tensor]


@dataclass
class StatePart:
    """Files that one rank stores, tensor by tensor in their order, and the tensors' places in the whole model."""

    files: dict[str, dict[str, Stored]] = field(default_factory=dict)
    tensors: Entries = field(default_factory=dict)

    def add(self, kind: str, spec: ParameterSpec, fragment: Fragment, stored: Stored) -> None:
        """Store a tensor as a fragment of one kind of a parameter."""
        self.files.setdefault(fragment.file, {})[fragment.key] = stored
        self.refer(kind, spec, fragment, stored.spec[0])

    def refer(self, kind: str, spec: ParameterSpec, fragment: Fragment, dtype: torch.dtype) -> None:
        """List a fragment that is stored for another kind under this kind, too, rounded to ``dtype``."""
        entries = self.tensors.setdefault(kind, {})
        others = entries[spec.name].fragments if spec.name in entries else ()
        entries[spec.name] = TensorEntry(spec.shape, DTYPE_NAMES[dtype], (*others, fragment))


def _owned(model: torch.nn.Module, recipe: Recipe, grid: Grid) -> list[Held]:
    """Return the parameters that this rank stores: trained ones, each on one rank of a replica."""
    found = []
    for held in held_parameters(model, recipe, grid):
        tied_copy = held.spec.name == WORD_EMBEDDINGS and not grid.is_first_stage
        if held.parameter.requires_grad and not tied_copy and (not held.shared or grid.tensor_rank == 0):
            found.append(held)
    return found


def weights_part(
    model: torch.nn.Module, recipe: Recipe, grid: Grid, dtype: torch.dtype | None = None
) -> StatePart:
    """Return the weights that this rank stores, rounded to ``dtype``; none unless it is data-parallel rank 0."""
    part = StatePart()
    file = f"weights-tp{grid.tensor_rank:02d}-pp{grid.pipeline_rank:02d}.safetensors"
    for held in _owned(model, recipe, grid) if grid.data_rank == 0 else []:
        stored = Stored((dtype or held.parameter.dtype, held.shape), held.parameter.detach)
        part.add("weights", held.spec, Fragment(file, held.key, held.offset, held.shape), stored)
    return part


def full_part(model: torch.nn.Module, optimizer: Optimizer, recipe: Recipe, grid: Grid) -> StatePart:
    """Return all that this rank stores to resume from: weights, shards of the optimizer, random states.

    The weights of a bf16 run are its fp32 weights, rounded: only the latter are stored.
    """
    whole = recipe.train.precision == "fp32"
    part = weights_part(model, recipe, grid) if whole else StatePart()
    file = f"optimizer-{grid.rank:05d}.safetensors"
    owned = {held.parameter: held for held in _owned(model, recipe, grid)}
    kinds = {kind.name: (file, DTYPES[kind.dtype]) for kind in state_kinds(recipe.optimizer)}
    if not whole:
        # In a file of its own, for readers that need weights alone.
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
    """Restore trained weights, optimizer and random states; every number is read by the rank that updates it.

    Collective: the ranks gather each other's weights.

    Returns:
        Whether the random states were restored, too: they belong to one parallel layout.

    Raises:
        OctoError: the checkpoint holds weights only, is incomplete or damaged.
    """
    manifest = reader.manifest
    kinds = [kind.name for kind in state_kinds(recipe.optimizer)]
    if not all(manifest.tensors.get(kind) for kind in kinds):
        raise OctoError(
            "this checkpoint holds weights only, there is nothing to resume",
            where=reader.directory,
            hint="name it in checkpoint.init_from",
        )
    holdings = {held.parameter: held for held in held_parameters(model, recipe, grid)}
    main = "main" if "main" in manifest.tensors else "weights"  # an fp32 run's weights are its fp32 weights
    steps = int(manifest.state["optimizer_steps"])
    for shard in optimizer.shards():
        held = holdings[shard.parameter]
        box = held.offset, held.shape
        sources = {"main": main, **{kind: kind for kind in kinds}}
        shard.write(
            {
                target: reader.read_flat(held.spec.name, kind, *box, shard.start, shard.end)
                for target, kind in sources.items()
            },
            steps,
        )
    optimizer.restored(steps)
    if manifest.layout != grid.layout():
        return False
    return _restore_random_states(reader, grid)


def _restore_random_states(reader: CheckpointReader, grid: Grid) -> bool:
    file = f"optimizer-{grid.rank:05d}.safetensors"
    # The next checkpoint has them in this order, so that its bytes do not depend on restarts.
    keys = list(random_states(grid))
    if set(keys) != set(reader.keys(file, "random/")):  # another device
        return False
    set_random_states({key: reader.state(file, key) for key in keys}, grid)
    return True
