"""Comparison of copies of parameters, which have to stay equal to the last bit.

Every parameter has copies over the data-parallel replicas; those that are not cut (layer norms, biases after a sum,
positions, the shared key and value) over the tensor ranks; the word embeddings of the first stage in the last one, as
its output layer. Nothing synchronises copies during training. They stay equal because each rank adds the same gradient
to the same weight; a missing reduction, a flipped bit or a miscomputing GPU lets them drift apart, at first unnoticed.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from torch import Tensor

from megatron_octo.architectures.parameters import WORD_EMBEDDINGS
from megatron_octo.common.errors import MachineError
from megatron_octo.common.splitmix import GOLDEN, LAST_SHIFT, ROUNDS
from megatron_octo.model.platform.grid import Grid
from megatron_octo.model.weights import Held, held_parameters
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.attempts import REPLICAS

_CHUNK = 1 << 20  # elements: 8 MiB of int64
_NAMED = 5  # parameters in a message


class ReplicaError(MachineError):
    """Raised on all ranks when copies differ.

    Attributes:
        ranks: those that differ from a majority of their copies; all that differ if there is no majority.
    """

    kind = REPLICAS
    ranks: tuple[int, ...] = ()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_STRIDE = _signed(GOLDEN)


def _coefficients(count: int, device: torch.device) -> Tensor:
    """Return int64 [count], as good as random: splitmix64 of 1, 2, 3, ..."""
    mixed = torch.arange(1, count + 1, device=device) * _STRIDE
    for shift, factor in ROUNDS:
        mixed = (mixed ^ (mixed >> shift)) * _signed(factor)
    return mixed ^ (mixed >> LAST_SHIFT)


def digest(tensor: Tensor, coefficients: Tensor) -> Tensor:
    """Return a linear hash of a tensor's bits modulo 2**64: an int64 scalar on its device.

    Every element has its own coefficient, so that errors which cancel in a sum do not cancel here.
    """
    bits = tensor.detach().reshape(-1).view({2: torch.int16, 4: torch.int32}[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in bits.split(len(coefficients)):
        total = total * _STRIDE + chunk.to(torch.int64).mul_(coefficients[: len(chunk)]).sum()
    return total


class ReplicaCheck:
    """Compares the copies of all parameters: reads the weights once, sends eight bytes per parameter."""

    def __init__(self, model: torch.nn.Module, recipe: Recipe, grid: Grid):
        self._grid = grid
        self._held: list[Held] = list(held_parameters(model, recipe.model, recipe.compute, grid))
        largest = max((held.values.numel() for held in self._held), default=1)
        self._coefficients = _coefficients(min(_CHUNK, largest), grid.device)
        every = range(len(self._held))
        self._groups: list[tuple[str, dist.ProcessGroup, list[int]]] = []
        if grid.layout.data > 1:
            self._groups.append(("data", grid.data_group, list(every)))
        if grid.layout.tensor > 1:
            shared = [index for index in every if self._held[index].shared]
            self._groups.append(("tensor", grid.tensor_group, shared))
        tied = grid.layout.pipeline > 1 and recipe.model.tied_embeddings
        if tied and (grid.is_first_stage or grid.is_last_stage):
            words = [index for index in every if self._held[index].spec.name == WORD_EMBEDDINGS]
            self._groups.append(("embedding", mpu.get_embedding_group(), words))

    @torch.no_grad()
    def digests(self) -> Tensor:
        """Return int64 [P], the digests of this rank's parameters in their order."""
        digests = [digest(held.values, self._coefficients) for held in self._held]
        return torch.stack(digests) if digests else torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Compare all copies after a step; collective, with weights that are complete on every rank.

        Raises:
            ReplicaError: on all ranks, with the names of parameters and ranks.
        """
        if self._grid.world == 1:
            return
        values = self.digests()
        differing = torch.zeros(1, dtype=torch.int64, device=self._grid.device)
        for _, group, chosen in self._groups:
            # The largest of v and of ~v, in one reduction: they are complements if all v are equal.
            mine = values[chosen]
            both = torch.cat([mine, ~mine])
            dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
            highest, lowest = both[: len(mine)], ~both[len(mine) :]
            differing |= (highest != lowest).any()
        dist.all_reduce(differing, dist.ReduceOp.MAX)
        if differing.item():
            self._explain(step, values.tolist())

    def _explain(self, step: int, values: list[int]) -> None:
        mine = [
            (kind, tuple(dist.get_process_group_ranks(group)), self._held[index].key, values[index])
            for kind, group, chosen in self._groups
            for index in chosen
        ]
        gathered: list[Any] = [None] * self._grid.world
        dist.all_gather_object(gathered, mine)
        copies: dict[tuple[str, tuple[int, ...], str], dict[int, int]] = {}
        for rank, entries in enumerate(gathered):
            for kind, ranks, name, value in entries:
                copies.setdefault((name, ranks, kind), {})[rank] = value
        texts: list[str] = []
        guilty: set[int] = set()
        tied: set[int] = set()
        for (name, _, kind), by_rank in sorted(copies.items(), key=lambda item: item[0]):
            if len(set(by_rank.values())) > 1:
                few = _minority(by_rank)
                guilty |= few
                tied |= set(by_rank)
                who = f"rank {_list(few)} differs" if few else f"ranks {_list(set(by_rank))} differ"
                texts.append(f"{name} over the {kind} ranks: {who}")
        more = f"; and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
        error = ReplicaError(
            f"step {step}: copies of parameters are not equal: {'; '.join(texts[:_NAMED])}{more}",
            hint="nothing was saved; the last checkpoint was equal everywhere: start again to resume from it. If one "
            "machine comes up again and again, exclude it (a GPU that miscomputes); else it is a bug",
        )
        error.ranks = tuple(sorted(guilty or tied))
        raise error


def _minority(by_rank: dict[int, int]) -> set[int]:
    """Return the ranks that differ from more than half; none if there is no majority."""
    value, count = Counter(by_rank.values()).most_common(1)[0]
    return {rank for rank in by_rank if by_rank[rank] != value} if 2 * count > len(by_rank) else set()


def _list(ranks: set[int]) -> str:
    return ", ".join(map(str, sorted(ranks)))
