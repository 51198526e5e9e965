"""``python -m megatron_octo.plan RECIPE --gpu h100 --nodes 8``: memory, time, disk and a better layout."""

import argparse
from pathlib import Path

from megatron_octo.common.errors import USER_ERROR, OctoError, run_command

_SHOWN = 5


def build_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="python -m megatron_octo.plan",
        description="Estimate memory per GPU, time, GPU hours, disk and how often to save. "
        "Arithmetic only; nothing is started. Exit code 2: it does not fit.",
    )
    add = parser.add_argument
    add("recipe", help="recipe file (YAML)")
    add("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    add("--gpu", default="h100", help="h100, h200, h800, a100, a100-40, a800, b200 (default: %(default)s)")
    add("--nodes", type=int, default=1, metavar="N", help="(default: %(default)s)")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="(default: %(default)s)")
    add("--search", action="store_true", help="propose tensor, pipeline, micro-batch and recompute")
    add("--mean-document", type=int, default=1024, metavar="TOKENS", help="(default: %(default)s)")
    add("--failures", type=float, default=6.5, metavar="X", help="per 1,000 node-days (default: %(default)s)")
    add(
        "--disk-gb-s",
        type=float,
        default=2.0,
        metavar="X",
        help="into the run directory (default: %(default)s)",
    )
    add(
        "--measured",
        type=Path,
        metavar="FILE",
        help="rows of benchmarks/throughput.py from your GPUs, to correct the modelled time",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Print the plan; returns 2 if it does not fit."""
    arguments = build_parser().parse_intermixed_args(argv)
    from megatron_octo.recipe.loading import load_recipe
    from megatron_octo.sizing.estimate import estimate, search

    for name in ("nodes", "gpus_per_node", "mean_document", "failures", "disk_gb_s"):
        value = getattr(arguments, name)
        if not 0 < value < float("inf"):
            option = "--" + name.replace("_", "-")
            raise OctoError(f"{option} is {value}, it has to be above 0", where="command line")
    if arguments.measured and not arguments.measured.is_file():
        raise OctoError("no such file", where=arguments.measured, hint="benchmarks/throughput.py --output writes it")
    plan = estimate(
        load_recipe(arguments.recipe, arguments.overrides),
        arguments.gpu,
        arguments.nodes,
        arguments.gpus_per_node,
        measured=arguments.measured,
        failures=arguments.failures,
        disk=1e9 * arguments.disk_gb_s,
        mean_document=arguments.mean_document,
    )
    print("\n".join(plan.lines()))
    if arguments.search:
        found = search(plan.recipe, plan.cluster)
        print(f"search: {len(found)} layouts fit" + (", the fastest:" if found else ""))
        for overrides, other in found[:_SHOWN]:
            memory = other.memory.total / 2**30
            print(f"  {other.tokens_per_second:12,.0f} tokens/s {memory:6.1f} GiB  {overrides}")
    return 0 if plan.fits else USER_ERROR


if __name__ == "__main__":
    run_command(main)
