"""Random states of a rank: torch's on the CPU and on its GPU, and those that megatron-core keeps by name."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core import tensor_parallel
from torch import Tensor

from megatron_octo.model.platform.grid import Grid

_TRACKER = "random/tracker/"


def random_states(grid: Grid) -> dict[str, Tensor]:
    """Return all of them as they are now, uint8, by their names in checkpoints."""
    states = {"random/torch": torch.get_rng_state()}
    if grid.device.type == "cuda":
        states["random/cuda"] = torch.cuda.get_rng_state(grid.device)
    for name, state in tensor_parallel.get_cuda_rng_tracker().get_states().items():
        states[_TRACKER + name] = state
    return states


def set_random_states(states: dict[str, Tensor], grid: Grid) -> None:
    """Restore what :func:`random_states` returned."""
    torch.set_rng_state(states["random/torch"])
    if grid.device.type == "cuda":
        torch.cuda.set_rng_state(states["random/cuda"], grid.device)
    named = {key.removeprefix(_TRACKER): state for key, state in states.items() if key.startswith(_TRACKER)}
    tensor_parallel.get_cuda_rng_tracker().set_states(named)


@contextmanager
def randomness_kept(grid: Grid) -> Iterator[None]:
    """Restore all random states on exit."""
    states = random_states(grid)
    try:
        yield
    finally:
        set_random_states(states, grid)
