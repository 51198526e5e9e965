"""Without a GPU: megatron-core's random states under tensor parallelism, and what the shim leaves alone."""

from typing import Any

import torch

from megatron_octo.config.layout import Layout
from tests.distributed import run_ranks


def draws() -> dict[str, Any]:
    from megatron.core import tensor_parallel

    from megatron_octo.model.platform.grid import Grid

    grid = Grid.build(Layout(tensor=2), torch.device("cpu"), seed=7)
    tracker = tensor_parallel.get_cuda_rng_tracker()

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with tensor_parallel.get_cuda_rng_tracker().fork():
            inner = torch.rand(16)
        return inner, torch.rand(16)

    saved = {name: state.clone() for name, state in tracker.get_states().items()}, torch.get_rng_state()
    first = both()
    second = both()
    tracker.set_states(saved[0])
    torch.set_rng_state(saved[1])
    again = both()
    grid.seed(7)
    anew = both()
    dropped = torch.nn.functional.dropout(torch.ones(64), 0.5)
    with tensor_parallel.get_cuda_rng_tracker().fork():
        dropped_inside = torch.nn.functional.dropout(torch.ones(64), 0.5)
    return {
        "first": first,
        "second": second,
        "again": again,
        "anew": anew,
        "dropped": dropped,
        "dropped_inside": dropped_inside,
        "replica": grid.data_rank,
        "tracker": type(tensor_parallel.get_cuda_rng_tracker()).__name__,
    }


def test_random_states_of_tensor_ranks() -> None:
    ranks = run_ranks(4, draws)  # two replicas of two tensor ranks
    for answer in ranks:
        assert answer["tracker"] == "CpuRngTracker"
        for place in (0, 1):
            assert torch.equal(answer["first"][place], answer["again"][place])
            assert torch.equal(answer["first"][place], answer["anew"][place])
            assert not torch.equal(answer["first"][place], answer["second"][place])
    for a, b in ((0, 1), (2, 3)):  # the same replica
        assert ranks[a]["replica"] == ranks[b]["replica"]
        assert torch.equal(ranks[a]["first"][1], ranks[b]["first"][1])
        assert torch.equal(ranks[a]["dropped"], ranks[b]["dropped"])
        assert not torch.equal(ranks[a]["first"][0], ranks[b]["first"][0])
        assert not torch.equal(ranks[a]["dropped_inside"], ranks[b]["dropped_inside"])
    for place in (0, 1):  # another replica sees other rows and drops other units
        assert not torch.equal(ranks[0]["first"][place], ranks[2]["first"][place])
        assert not torch.equal(ranks[1]["first"][place], ranks[3]["first"][place])


def devices() -> list[str]:
    tensor = torch.zeros(2, device="cuda")
    return [
        str(tensor.device),
        str(torch.zeros(2).cuda().device),
        str(torch.zeros(2).to("cuda").device),
        str(torch.cuda.current_device()),
        torch.zeros(2, dtype=torch.bfloat16).type(),
        str(torch.zeros(2).type(torch.float64).dtype),
        str(torch.cuda.is_available()),
    ]


def test_cuda_means_cpu() -> None:
    answer = run_ranks(1, devices)[0]
    assert answer == ["cpu", "cpu", "cpu", "cpu", "torch.cuda.BFloat16Tensor", "torch.float64", "False"]
