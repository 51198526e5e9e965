"""Compare one step of one model on every back end of this GPU with fp32 on the same weights.

    torchrun --nproc-per-node 1 benchmarks/gpu_parity.py --output benchmarks/results/parity.jsonl
    torchrun --nproc-per-node 1 benchmarks/gpu_parity.py --architecture starcoder2

The reference is torch attention per document with fp32 weights and the fp32 cross entropy. bf16 back ends must agree
with it within the rounding of bf16; the fused cross entropy must agree with the reference one on the same logits.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.support.corpus import write_random_corpus
from benchmarks.support.machine import keep
from benchmarks.support.processes import device_of_this_process
from megatron_octo.recipe.loading import build_recipe
from megatron_octo.recipe.schema import Recipe

# Precision, attention, cross entropy (of megatron-core's layers), layers: values of the recipe's keys. A case whose
# library is not installed is left out.
CASES = {
    "fp32 unfused": ("fp32", "unfused", "reference", "mcore"),
    "bf16 unfused": ("bf16", "unfused", "reference", "mcore"),
    "bf16 torch flash": ("bf16", "torch", "reference", "mcore"),
    "bf16 flash4": ("bf16", "flash4", "reference", "mcore"),
    "bf16 te": ("bf16", "te", "reference", "mcore"),
    "bf16 te, te cross entropy": ("bf16", "te", "te", "mcore"),
    "fp32 unfused, fused layers": ("fp32", "unfused", "reference", "fused"),
    "bf16 torch flash, fused layers": ("bf16", "torch", "reference", "fused"),
    "bf16 flash4, fused layers": ("bf16", "flash4", "reference", "fused"),
    "bf16 te, fused layers": ("bf16", "te", "reference", "fused"),
    "fp8 te": ("fp8", "te", "reference", "mcore"),
    "fp8 te, fused layers": ("fp8", "te", "reference", "fused"),
}

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "fp8": {"precision": "bf16", "fp8": "current"},
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {},
    # Most documents are longer than the window.
    "starcoder2": {"num_query_groups": 2, "rotary_base": 1e6, "sliding_window": 64, "tied_embeddings": False},
}


def make_recipe(folder: Path, architecture: str, case: tuple[str, str, str, str], world: int) -> Recipe:
    """Return the recipe of a case."""
    precision, attention, cross_entropy, layers = case
    return build_recipe(
        {
            "run_dir": str(folder / "run"),
            "model": {
                "architecture": architecture,
                **ARCHITECTURES[architecture],
                "num_layers": 4,
                "hidden_size": 512,
                "num_attention_heads": 4,
                "ffn_hidden_size": 2048,
                "max_position_embeddings": 1024,
                "vocab_size": 1001,
                "init_std": 0.05,
            },
            "parallel": {"tensor": world, "sequence": world > 1},
            "data": {"train": f"train: 1.0 0:1 {folder}/random", "seq_length": 1024},
            "batch": {"global_size": 8, "micro_size": 2},
            "optimizer": {"lr": 1e-3},
            "train": {"steps": 4, **PRECISIONS[precision]},
            "system": {"attention": attention, "cross_entropy": cross_entropy, "layers": layers},
        }
    )


def one_step(recipe: Recipe, grid: Any) -> dict[str, Any]:
    """Return loss, gradients by key with name and region, and the kernels of one step."""
    from megatron_octo.data.row_stream import Position
    from megatron_octo.model.weights import held_parameters
    from megatron_octo.runfiles.run_directory import RunDirectory
    from megatron_octo.training.engine.batches import Loader
    from megatron_octo.training.engine.datasets import open_corpora
    from megatron_octo.training.engine.metrics import reduce_totals
    from megatron_octo.training.engine.network import Network

    network = Network(recipe, grid)
    network.start_from(None)
    corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
    loader = Loader(corpora.train, recipe, grid, Position())
    batch = loader.next()
    loader.close()
    part = network.gradients(batch)
    loss = reduce_totals(part, batch, None, grid).loss
    gradients = {
        held.key: (held.spec.name, held.region, held.parameter.main_grad.float().clone())  # type: ignore[attr-defined]
        for held in held_parameters(network.core, recipe.model, recipe.compute, grid)
    }
    return {
        "loss": loss,
        "grad_norm": network.optimizer.step(0.0),
        "gradients": gradients,
        "backend": str(network.backend),
        "kernels": network.kernels,
    }


def relative_errors(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """Return for each tensor of the model the norm of its difference from the reference over the reference's norm."""
    sums: dict[str, list[float]] = {}
    for key, (name, region, value) in found.items():
        expected = reference[key][2] if key in reference else reference[name][2][region]
        both = sums.setdefault(name, [0.0, 0.0])
        both[0] += float((value - expected).square().sum())
        both[1] += float(expected.square().sum())
    return {name: (difference / norm) ** 0.5 for name, (difference, norm) in sums.items()}


def main() -> int:  # one pass over the cases, which share the process group
    """Run all cases, print a line per case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="gpt_bigcode")
    arguments = parser.parse_args()
    from megatron_octo.model.platform.mcore import load_mcore

    device = device_of_this_process("cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    load_mcore()
    dist.init_process_group("nccl")
    from megatron_octo.model.attention import flash4
    from megatron_octo.model.platform.grid import Grid
    from megatron_octo.runfiles.run_directory import environment

    shared: list[str | None] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    folder = Path(str(shared[0]))
    if dist.get_rank() == 0:
        write_random_corpus(folder / "random", 60_000, 1001, 200)
    dist.barrier()
    recipes = {
        name: make_recipe(folder, arguments.architecture, case, dist.get_world_size())
        for name, case in CASES.items()
        if arguments.architecture == "gpt_bigcode" or case[3] == "mcore"
    }
    grid = Grid.build(recipes["fp32 unfused"].parallel.layout, device, seed=1)
    # Tensor ranks of the two kinds of layers hold different rows of queries and keys: each kind has its own reference.
    references = {
        recipe.system.layers: one_step(recipe, grid)["gradients"]
        for name, recipe in recipes.items()
        if name.startswith("fp32")
    }
    baseline = one_step(recipes["fp32 unfused"], grid)
    for name, recipe in recipes.items():
        if CASES[name][1] == "flash4" and (reason := flash4.why_not(recipe.model, recipe.compute)):
            if dist.get_rank() == 0:
                print(f"{name} is left out: {reason}")
            continue
        found = one_step(recipe, grid)
        reference = references["mcore" if dist.get_world_size() == 1 else recipe.system.layers]
        worst, worst_name = max(
            (error, key)
            for key, error in relative_errors(found["gradients"], reference).items()
            if "linear_qkv.bias" not in key  # the key's part has no gradient, only noise
        )
        line = {
            "architecture": arguments.architecture,
            "case": name,
            "backend": found["backend"],
            **found["kernels"],
            "ranks": dist.get_world_size(),
            "loss": found["loss"],
            "loss_difference": found["loss"] - baseline["loss"],
            "grad_norm": found["grad_norm"],
            "worst_relative_gradient_error": worst,
            "worst_gradient": worst_name,
            "machine": environment()["gpus"],
            "packages": environment()["packages"],
        }
        if dist.get_rank() == 0:
            print(json.dumps({key: value for key, value in line.items() if key not in ("machine", "packages")}))
            keep(arguments.output, line)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
