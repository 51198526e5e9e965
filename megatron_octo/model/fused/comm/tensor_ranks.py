"""Set-up of the tensor ranks' communication, and the gradients that they sum once per step."""

import torch
from torch import Tensor

from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPES
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.fused.comm.exchange import TensorGroup
from megatron_octo.model.fused.comm.peer_memory import PeerMemory
from megatron_octo.model.platform.grid import Grid


def sum_shared_gradients(model: torch.nn.Module, grid: Grid) -> None:
    """Sum over the tensor ranks the gradients of which each has the part of its own heads. Collective."""
    if grid.layout.tensor == 1:
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
    start = 0
    for gradient in gradients:
        gradient.copy_(together[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _any_problem(problem: str | None, grid: Grid) -> str | None:
    """Return the first problem of any tensor rank, or None. Collective."""
    if grid.layout.tensor == 1:
        return problem
    answers: list[str | None] = [None] * grid.layout.tensor
    torch.distributed.all_gather_object(answers, problem, group=grid.tensor_group)
    return next((answer for answer in answers if answer), None)


def tensor_group(model: ModelConfig, compute: Compute, grid: Grid) -> TensorGroup:
    """Return the tensor ranks, with shared memory where GPUs of one machine support it. Collective.

    Raises:
        OctoError: The recipe requires shared memory, and the GPUs cannot reach each other's.
    """
    sequence, wanted = compute.layout.sequence, compute.tensor_transport
    peer, problem = None, None
    if sequence and wanted != "collective" and grid.device.type == "cuda":
        rows = compute.micro_tokens // grid.layout.tensor
        shape = (rows, model.hidden_size)
        try:
            peer = PeerMemory(grid.tensor_group, shape, DTYPES[compute.precision], grid.device)
        except RuntimeError as error:
            problem = str(error).splitlines()[0]
    elif wanted == "peer":
        problem = "it needs GPUs and parallel.sequence"
    problem = _any_problem(problem, grid)
    if peer and not problem:  # every rank has allocated its own, so none waits in vain
        try:
            peer.connect()
        except RuntimeError as error:
            problem = str(error).splitlines()[0]
        problem = _any_problem(problem, grid)
    if problem and wanted == "peer":
        raise OctoError(f"no shared memory: {problem}", where="system.tensor_transport", hint="use auto")
    return TensorGroup(grid.tensor_group, grid.layout.tensor, grid.tensor_rank, sequence, None if problem else peer)
