"""Where a training step's GPU time goes: kernels by kind, through the product's own loop.

    torchrun --nproc-per-node 1 benchmarks/kernels.py recipes/santacoderpack.yaml batch.global_size=8

Trains some steps on random documents, profiles two more on rank 0 and prints the time of each kind of kernel in
per cent of the profiled time, then the longest kernels by name.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

from benchmarks.support.corpus import overrides_on
from benchmarks.support.training import corpus_for
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.training.supervision import launch

KINDS = {
    "attention": r"fmha|flash|sdpa|cudnn.*attn|attention",
    "communication": r"nccl",
    "matrix products": r"gemm|nvjet|cutlass|wgmma|splitK",
    "cross entropy": r"cross_entropy|online_softmax",
    "residual and norm": r"add_norm|layer_?norm|ln_(fwd|bwd)|rmsnorm",
    "optimizer": r"multi_tensor|adam",
    "gelu": r"gelu|tanh",
    "embeddings": r"_add_rows|radix_sort|gather|embedding",
    "copies and fills": r"memcpy|memset|fill|copy",
    "reductions": r"reduce",
    "elementwise": r"elementwise|triton|cat|vectorized",
}


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--warm-up", type=int, default=4, help="steps before (default: 4)")
    parser.add_argument("--steps", type=int, default=2, help="steps profiled (default: 2)")
    parser.add_argument("--mean-document", type=int, default=1024)
    parser.add_argument("--names", type=int, default=40, help="longest kernels shown")
    arguments = parser.parse_intermixed_args()
    if not launch.adopt_environment():
        launch.stand_alone()
    folder = Path(tempfile.gettempdir()) / f"kernels-{os.environ['MASTER_PORT']}"
    folder.mkdir(exist_ok=True)
    steps = arguments.warm_up + arguments.steps + 2
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    prefix = folder / f"random-{os.environ['RANK']}"  # the same in every rank: seeded
    corpus = corpus_for(prefix, recipe, steps, arguments.mean_document)
    recipe = load_recipe(
        arguments.recipe,
        [
            *arguments.overrides,
            f"run_dir={folder}/run-{os.environ['RANK']}",
            *overrides_on(corpus),
            "checkpoint.interval=0",
            "schedule.warmup_fraction=null",
            "schedule.warmup_steps=null",
            f"train.steps={steps}",
        ],
    )
    profile(recipe, arguments)
    return 0


def profile(recipe, arguments) -> None:  # type: ignore[no-untyped-def]
    from megatron_octo import train as door

    door.settings_before_torch(recipe)
    import torch
    import torch.distributed as dist

    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here, and it is a GPU's time that is shown")

    from megatron_octo.model.platform.mcore import load_mcore
    from megatron_octo.training.engine.device import own_device

    device = own_device(recipe.system.device)
    load_mcore()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.loop import Training
    from megatron_octo.training.run import Run

    run = Training(Run(recipe, Grid.build(recipe.parallel.layout, device, recipe.train.seed)))
    loader = Loader(run.corpora.train, recipe, run.grid, Position())
    for _ in range(arguments.warm_up):
        run._one_step(loader)
    torch.cuda.synchronize()
    with torch.profiler.profile() as profiler:
        for _ in range(arguments.steps):
            run._one_step(loader)
        torch.cuda.synchronize()
    if run.grid.is_main:
        report(profiler, arguments)
    loader.close()
    dist.barrier()
    dist.destroy_process_group()


def report(profiler, arguments) -> None:  # type: ignore[no-untyped-def]
    from torch._C._autograd import DeviceType

    events = [
        event
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.name.startswith("Optimizer.")  # annotations cover kernels
    ]
    kernels: dict[str, tuple[float, int]] = {}
    for event in events:
        time, count = kernels.get(event.name, (0.0, 0))
        kernels[event.name] = (time + event.device_time, count + 1)
    begin, end = min(e.time_range.start for e in events), max(e.time_range.end for e in events)
    wall = end - begin
    print(f"profiled {wall / 1e3 / arguments.steps:.1f} ms a step", flush=True)
    kinds: dict[str, float] = {}
    for name, (time, _) in kernels.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + time
    for kind, time in sorted(kinds.items(), key=lambda item: -item[1]):
        print(f"{kind:20} {time / wall:6.1%} {time / 1e3 / arguments.steps:8.1f} ms a step")
    print(f"{'idle (or overlap)':20} {1 - sum(kinds.values()) / wall:6.1%}")
    events.sort(key=lambda event: event.time_range.start)
    latest, gaps = events[0], []
    for event in events[1:]:
        if event.time_range.start > latest.time_range.end:
            gaps.append((event.time_range.start - latest.time_range.end, latest.name, event.name))
        if event.time_range.end > latest.time_range.end:
            latest = event
    small = sum(gap for gap, *_ in gaps if gap < 20)
    print(f"idle: {small / 1e3 / arguments.steps:.1f} ms a step in {len(gaps) // arguments.steps} pauses under 20 us;")
    for gap, before, after in sorted(gaps, reverse=True)[:8]:
        print(f"  {gap / 1e3:8.2f} ms between {before[:50]} and {after[:50]}")
    for name, (time, count) in sorted(kernels.items(), key=lambda item: -item[1][0])[: arguments.names]:
        print(
            f"{time / 1e3 / arguments.steps:8.2f} ms {count // arguments.steps:5d}x {time / count:8.1f} us "
            f"[{kind_of(name)}] {name[:110]}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
