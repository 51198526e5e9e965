"""Values of a network's parameters: which ones a rank holds, their initialisation, and loading them."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megatron_octo.architectures.adapters import adapter_parameters
from megatron_octo.architectures.parameters import ParameterSpec, canonical_name, parameter_specs
from megatron_octo.checkpoint.source import Source
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.platform.grid import Grid


@dataclass(frozen=True)
class Held:
    """A box of a tensor of the whole model, and where this rank holds it: some rows of a parameter, mostly all.

    Attributes:
        spec: that tensor's entry in the table of the whole model.
        offset, shape: the box.
        shared: every tensor rank holds this same box.
        part: tells boxes of one tensor apart that one rank holds ("" where there is one).
        start: the box's first element in the parameter laid flat.
    """

    spec: ParameterSpec
    parameter: torch.nn.Parameter
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    shared: bool
    part: str = ""
    start: int = 0

    @property
    def key(self) -> str:
        """A name that is unique among the boxes of this rank."""
        return f"{self.spec.name}/{self.part}" if self.part else self.spec.name

    @property
    def end(self) -> int:
        """The element after the box's last in the parameter laid flat."""
        return self.start + math.prod(self.shape)

    @property
    def values(self) -> Tensor:
        """The box's values, a view of the parameter."""
        return self.parameter.detach().view(-1)[self.start : self.end].view(self.shape)

    @property
    def region(self) -> tuple[slice, ...]:
        """The box as an index into the whole tensor."""
        return tuple(slice(start, start + extent) for start, extent in zip(self.offset, self.shape))


def held_parameters(network: torch.nn.Module, model: ModelConfig, compute: Compute, grid: Grid) -> Iterator[Held]:
    """Yield what this rank holds of the model's parameters.

    The last pipeline stage has a copy of the word embeddings for the tied output layer, with the same entry as the
    first stage's.
    """
    specs = parameter_specs(model)
    if compute.lora:
        specs = {**specs, **adapter_parameters(model, compute.lora)}
    unwrapped: Any = network
    while hasattr(unwrapped, "module"):  # data-parallel and mixed-precision wrappers
        unwrapped = unwrapped.module
    layers = unwrapped.decoder.layers
    first_layer = layers[0].layer_number - 1 if len(layers) else 0
    for name, parameter in unwrapped.named_parameters():
        spec = specs[canonical_name(name, first_layer, model.tied_embeddings)]
        if ".linear_q." in name or ".linear_kv." in name:
            yield _attention_part(name, spec, parameter, model, grid)
        else:
            boxes, start = spec.boxes(grid.tensor_rank, grid.layout.tensor), 0
            for number, (offset, shape) in enumerate(boxes):
                part = str(number) if len(boxes) > 1 else ""
                held = Held(spec, parameter, offset, shape, spec.axis is None, part, start)
                yield held
                start = held.end


def _attention_part(
    name: str, spec: ParameterSpec, parameter: torch.nn.Parameter, model: ModelConfig, grid: Grid
) -> Held:
    """Return a part of the rows [queries | key | value]: queries are cut over the ranks, key and value shared."""
    trailing = spec.shape[1:]
    zeros = (0,) * len(trailing)
    if ".linear_q." in name:
        rows = model.attention_size // grid.layout.tensor
        return Held(spec, parameter, (grid.tensor_rank * rows, *zeros), (rows, *trailing), False, "q")
    return Held(spec, parameter, (model.attention_size, *zeros), (2 * model.head_dim, *trailing), True, "kv")


@torch.no_grad()
def init_weights(
    network: torch.nn.Module, model: ModelConfig, compute: Compute, grid: Grid, *, only_trained: bool = False
) -> None:
    """Initialise every parameter, or with ``only_trained`` those that are not frozen, from seed and name.

    Each whole tensor is drawn and then cut, so the model is the same under any tensor, pipeline and data
    parallelism and any padding of the vocabulary. CPU and GPU draw different numbers.
    Normal with ``init_std``; output projections with ``init_std / sqrt(2 * num_layers)`` (GPT-2). The adapters' A is
    normal with the variance of a linear layer of torch, ``1 / (3 * in)``; their B is zero.
    """
    std = {"normal": model.init_std, "residual": model.init_std / (2 * model.num_layers) ** 0.5}
    for held in held_parameters(network, model, compute, grid):
        init = held.spec.init
        if only_trained and not held.parameter.requires_grad:
            continue
        if init in ("ones", "zeros"):
            held.values.fill_(1.0 if init == "ones" else 0.0)
        else:
            scale = std[init] if init in std else (3 * held.spec.shape[1]) ** -0.5
            held.values.copy_(_draw(held.spec, compute.seed, grid.device, scale)[held.region])


def _draw(spec: ParameterSpec, seed: int, device: torch.device, std: float) -> Tensor:
    key = hashlib.blake2b(f"{seed}/{spec.name}".encode(), digest_size=7).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(key, "little"))
    drawn = torch.zeros(spec.shape, dtype=torch.float32, device=device)
    drawn[: spec.rows].normal_(0.0, std, generator=generator)  # padding stays zero
    return drawn


@torch.no_grad()
def load_weights(reader: Source, network: torch.nn.Module, model: ModelConfig, compute: Compute, grid: Grid) -> None:
    """Fill this rank's parameters except adapters from weights of the same shape, of any layout and precision.

    Raises:
        OctoError: they are incomplete or damaged.
    """
    for held in held_parameters(network, model, compute, grid):
        if compute.lora and held.parameter.requires_grad:
            continue
        # copy_ rounds to the parameter's dtype.
        held.values.copy_(reader.read(held.spec.name, "weights", held.offset, held.shape))
