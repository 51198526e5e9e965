"""State of a run by rank: what each stores, and how it is restored (the format is in megatron_octo.checkpoint).

Every rank stores what it alone owns: data-parallel rank 0 its weights, every rank its shard of the optimizer's state.
Loading reads boxes of whole tensors, so any tensor, pipeline and data parallelism reads any other's checkpoint.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from megatron_octo.architectures.parameters import WORD_EMBEDDINGS, ParameterSpec
from megatron_octo.checkpoint.directory import Entries, Fragment, TensorEntry
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_writer import TensorSpec
from megatron_octo.common.torch_dtypes import DTYPE_NAMES, DTYPES
from megatron_octo.config.optimizer_state import state_kinds
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.weights import Held, held_parameters
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.engine.optimizer import Optimizer, Shard
from megatron_octo.training.engine.randomness import random_states

Owned = dict[torch.nn.Parameter, list[Held]]


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
    for held in held_parameters(model, recipe.model, recipe.compute, grid):
        tied_copy = held.spec.name == WORD_EMBEDDINGS and not grid.is_first_stage
        if held.parameter.requires_grad and not tied_copy and (not held.shared or grid.tensor_rank == 0):
            found.append(held)
    return found


def weights_part(model: torch.nn.Module, recipe: Recipe, grid: Grid, dtype: torch.dtype | None = None) -> StatePart:
    """Return the weights that this rank stores, rounded to ``dtype``; none unless it is data-parallel rank 0."""
    part = StatePart()
    file = f"weights-tp{grid.tensor_rank:02d}-pp{grid.pipeline_rank:02d}.safetensors"
    for held in _owned(model, recipe, grid) if grid.data_rank == 0 else []:
        stored = Stored((dtype or held.parameter.dtype, held.shape), partial(getattr, held, "values"))
        part.add("weights", held.spec, Fragment(file, held.key, held.offset, held.shape), stored)
    return part


def full_part(model: torch.nn.Module, optimizer: Optimizer, recipe: Recipe, grid: Grid) -> StatePart:
    """Return all that this rank stores to resume from: weights, shards of the optimizer, random states.

    The weights of a bf16 run are its fp32 weights, rounded: only the latter are stored.
    """
    whole = recipe.train.precision == "fp32"
    part = weights_part(model, recipe, grid) if whole else StatePart()
    file = f"optimizer-{grid.rank:05d}.safetensors"
    owned = _by_parameter(_owned(model, recipe, grid))
    kinds = {kind.name: (file, DTYPES[kind.dtype]) for kind in state_kinds(recipe.optimizer.state_dtype)}
    if not whole:
        # In a file of its own, for readers that need weights alone.
        kinds["main"] = (f"main-{grid.rank:05d}.safetensors", torch.float32)
    for shard in optimizer.shards():
        for held, low, high in _pieces(shard, owned):
            for kind, (name, dtype) in kinds.items():
                flat = (low - held.start, high - held.start)
                fragment = Fragment(name, f"{kind}/{held.key}", held.offset, held.shape, flat)
                stored = Stored((dtype, (high - low,)), partial(_flat, shard, kind, low, high))
                part.add(kind, held.spec, fragment, stored)
                if kind == "main":
                    part.refer("weights", held.spec, fragment, held.parameter.dtype)
    for key, state in random_states(grid).items():
        stored = Stored((state.dtype, tuple(state.shape)), partial(_random_state, grid, key))
        part.files.setdefault(file, {})[key] = stored
    return part


def _by_parameter(held: Iterable[Held]) -> Owned:
    found: Owned = {}
    for each in held:
        found.setdefault(each.parameter, []).append(each)
    return found


def _pieces(shard: Shard, owned: Owned) -> Iterator[tuple[Held, int, int]]:
    """Yield the boxes of a parameter that a shard meets, and from where to where in the parameter laid flat."""
    for held in owned.get(shard.parameter, ()):
        low, high = max(shard.start, held.start), min(shard.end, held.end)
        if low < high:
            yield held, low, high


def _flat(shard: Shard, kind: str, low: int, high: int) -> Tensor:
    return shard.read(kind).reshape(-1)[low - shard.start : high - shard.start]


def _random_state(grid: Grid, key: str) -> Tensor:
    return random_states(grid)[key]


def load_state(
    reader: CheckpointReader, model: torch.nn.Module, optimizer: Optimizer, recipe: Recipe, grid: Grid
) -> dict[str, Tensor] | None:
    """Read trained weights and optimizer state: each rank the shards that it updates. Not collective.

    ``optimizer.restored`` has to follow on all ranks.

    Returns:
        Random states; None if the checkpoint has them for another parallel layout or device.

    Raises:
        OctoError: the checkpoint is incomplete or damaged.
    """
    manifest = reader.manifest
    owned = _by_parameter(held_parameters(model, recipe.model, recipe.compute, grid))
    main = "main" if "main" in manifest.tensors else "weights"  # an fp32 run's weights are its fp32 weights
    steps = int(manifest.state["optimizer_steps"])
    sources = {"main": main, **{kind.name: kind.name for kind in state_kinds(recipe.optimizer.state_dtype)}}
    for shard in optimizer.shards():
        found: dict[str, list[Tensor]] = {target: [] for target in sources}
        for held, low, high in _pieces(shard, owned):
            place = (held.offset, held.shape, low - held.start, high - held.start)
            for target, kind in sources.items():
                found[target].append(reader.read_flat(held.spec.name, kind, *place))
        shard.write(
            {target: pieces[0] if len(pieces) == 1 else torch.cat(pieces) for target, pieces in found.items()},
            steps,
        )
    if manifest.layout != grid.layout.sizes():
        return None
    file = f"optimizer-{grid.rank:05d}.safetensors"
    # The next checkpoint has them in this order, so that its bytes do not depend on restarts.
    keys = list(random_states(grid))
    if set(keys) != set(reader.keys(file, "random/")):  # another device
        return None
    return {key: reader.state(file, key) for key in keys}
