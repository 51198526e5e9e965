"""Measure the cost of comparing all copies of all weights, beside a training step.

    torchrun --nproc-per-node 2 benchmarks/replicas.py recipes/santacoderpack.yaml --step-ms 1100

On one rank there is nothing to compare: the digests alone are timed, which take nearly all of the time.
"""

import argparse
import statistics
import time

from megatron_octo.recipe.loading import load_recipe
from megatron_octo.training.supervision import launch


def main() -> int:
    """Time the comparison on random weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--step-ms", type=float, help="time of a training step, for the share of it")
    parser.add_argument("--repeat", type=int, default=10)
    arguments = parser.parse_intermixed_args()
    if not launch.adopt_environment():
        launch.stand_alone()
    recipe = load_recipe(arguments.recipe, arguments.overrides)

    import torch
    import torch.distributed as dist

    from megatron_octo.model.platform.mcore import load_mcore
    from megatron_octo.training.engine.device import own_device

    device = own_device(recipe.system.device)
    load_mcore()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.model.weights import init_weights
    from megatron_octo.training.engine.network import Network
    from megatron_octo.training.engine.replica_check import ReplicaCheck

    grid = Grid.build(recipe.parallel.layout, device, recipe.train.seed)
    network = Network(recipe, grid)
    init_weights(network.core, recipe.model, recipe.compute, grid)
    check = ReplicaCheck(network.core, recipe, grid)
    seconds = []
    for _ in range(arguments.repeat + 1):
        started = time.perf_counter()
        if grid.world > 1:
            check(0)
        else:
            check.digests().tolist()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    if grid.is_main:
        count = sum(parameter.numel() for parameter in network.core.parameters())
        typical = statistics.median(seconds[1:])
        print(f"{grid.world} ranks, {count:,} parameters per rank: {typical * 1e3:.2f} ms per comparison")
        if arguments.step_ms:
            every = recipe.guard.replica_interval
            share = typical * 1e3 / (every * arguments.step_ms)
            print(f"every {every} steps of {arguments.step_ms:g} ms: {share:.4%} of the time")
    dist.barrier()
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
