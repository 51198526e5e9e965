"""How the tensor ranks of a run reach each other, and what they have to sum once a step."""

import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.comm.peer_memory import PeerMemory
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.schema import Recipe


def sum_shared_gradients(model: torch.nn.Module, grid: Grid) -> None:
    """Sum over the tensor ranks the gradients to which each of them gave the part of its own heads. Collective."""
    if grid.tensor_size == 1:
        return
    gradients: list[Tensor] = [
        parameter.main_grad  # type: ignore[attr-defined]
        for parameter in model.parameters()
        if getattr(parameter, "sum_over_tensor_ranks", False)
    ]
    if not gradients:
        return
    together = torch.cat([gradient.view(-1) for gradient in gradients])
    torch.distributed.all_reduce(together, group=grid.tensor_group)
    for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients])):
        gradient.copy_(summed.view_as(gradient))


def _anybodys(problem: str | None, grid: Grid) -> str | None:
    """The first problem that a tensor rank has. Collective."""
    if grid.tensor_size == 1:
        return problem
    answers: list[str | None] = [None] * grid.tensor_size
    torch.distributed.all_gather_object(answers, problem, group=grid.tensor_group)
    return next((answer for answer in answers if answer), None)


def tensor_group(recipe: Recipe, grid: Grid) -> TensorGroup:
    """The tensor ranks, with memory in common where GPUs of one machine can have it. Collective.

    Raises:
        OctoError: the recipe asks for common memory and the GPUs cannot reach each other's.
    """
    sequence, wanted = recipe.parallel.sequence, recipe.system.tensor_transport
    peer, problem = None, None
    if sequence and wanted != "collective" and grid.device.type == "cuda":
        rows = recipe.batch.micro_size * recipe.data.seq_length // grid.tensor_size
        shape = (rows, recipe.model.hidden_size)
        try:
            peer = PeerMemory(grid.tensor_group, shape, DTYPES[recipe.train.precision], grid.device)
        except RuntimeError as error:
            problem = str(error).splitlines()[0]
    elif wanted == "peer":
        problem = "it needs GPUs and parallel.sequence"
    problem = _anybodys(problem, grid)
    if peer and not problem:  # all have theirs: nobody waits in vain for a rank that has none
        try:
            peer.connect()
        except RuntimeError as error:
            problem = str(error).splitlines()[0]
        problem = _anybodys(problem, grid)
    if problem and wanted == "peer":
        raise OctoError(f"no common memory: {problem}", where="system.tensor_transport", hint="use auto")
    return TensorGroup(
        grid.tensor_group, grid.tensor_size, grid.tensor_rank, sequence, None if problem else peer
    )
