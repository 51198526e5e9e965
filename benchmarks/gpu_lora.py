"""Check LoRA's gradients in bf16 beside fp32 on GPUs, then measure speed and memory at a recipe's own size.

    torchrun --nproc-per-node 1 benchmarks/gpu_lora.py --output benchmarks/results/lora.jsonl
    torchrun --nproc-per-node 2 benchmarks/gpu_lora.py recipes/octocoder_lora.yaml train.recompute=none

The base is drawn at random in the frozen weights' own precision; tensor parallelism takes all ranks. The first lines
are of a small model: every back end's loss and adapter gradients against fp32 with attention computed per document. The
last is of the recipe: medians over its steps after the first three, torch's largest allocation, and the plan of
``megatron_octo.plan``.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.support.corpus import write_random_corpus
from benchmarks.support.machine import keep, machine
from benchmarks.support.processes import device_of_this_process
from benchmarks.support.training import corpus_for
from megatron_octo.recipe.loading import build_recipe, load_recipe
from megatron_octo.recipe.schema import Recipe

CASES = {"fp32 unfused": ("fp32", "unfused"), "bf16 torch": ("bf16", "torch"), "bf16 te": ("bf16", "te")}
WARM_UP = 3


def small_recipe(folder: Path, precision: str, attention: str, world: int) -> Recipe:
    """Return the recipe of a case."""
    return build_recipe(
        {
            "run_dir": str(folder / "small"),
            "model": {
                "num_layers": 4,
                "hidden_size": 512,
                "num_attention_heads": 4,
                "ffn_hidden_size": 2048,
                "max_position_embeddings": 1024,
                "vocab_size": 1001,
                "init_std": 0.05,
            },
            "parallel": {"tensor": world, "sequence": world > 1},
            "lora": {
                "dropout": 0.0,
                "target_modules": ["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"],
            },
            "data": {"train": f"train: 1.0 0:1 {folder}/small_corpus", "seq_length": 1024},
            "batch": {"global_size": 8, "micro_size": 2},
            "optimizer": {"lr": 1e-3},
            "train": {"steps": 1, "precision": precision},
            "checkpoint": {"init_from": "drawn"},
            "system": {"attention": attention},
        }
    )


class Steps:
    """A recipe's network on random weights, and its steps."""

    def __init__(self, recipe: Recipe, grid: Any, draw_b: bool):
        from megatron_octo.data.row_stream import Position
        from megatron_octo.model.weights import held_parameters
        from megatron_octo.runfiles.run_directory import RunDirectory
        from megatron_octo.training.engine.batches import Loader
        from megatron_octo.training.engine.datasets import open_corpora
        from megatron_octo.training.engine.network import Network

        self.recipe, self.grid = recipe, grid
        self.network = Network(recipe, grid)
        self.network.start_from(None)
        if draw_b:  # B starts at zero, and then A has no gradient
            for held in held_parameters(self.network.core, recipe.model, recipe.compute, grid):
                if held.spec.name.endswith(".lora.b"):
                    generator = torch.Generator().manual_seed(len(held.spec.name) * 31 + held.spec.shape[0])
                    drawn = torch.randn(held.spec.shape, generator=generator) * 0.05
                    held.parameter.data.copy_(drawn[held.region])
        corpora = open_corpora(recipe, RunDirectory(recipe, grid.is_main), grid)
        self.loader = Loader(corpora.train, recipe, grid, Position())

    def run(self, learning_rate: float) -> dict[str, Any]:
        """Make one step; returns loss, seconds and rates."""
        from megatron_octo.sizing.flops import training_flops
        from megatron_octo.training.engine.metrics import reduce_totals

        start = time.perf_counter()
        batch = self.loader.next()
        loss = self.network.gradients(batch)
        self.network.optimizer.step(learning_rate)
        total = reduce_totals(loss, batch, None, self.grid)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        positions = self.recipe.batch.global_size * self.recipe.data.seq_length
        flops = training_flops(self.recipe.model, positions, total.squared_lengths, self.recipe.lora)
        return {
            "loss": total.loss,
            "seconds": seconds,
            "tokens_per_s": positions / seconds / self.grid.world,
            "tflops": flops / seconds / self.grid.world / 1e12,
        }

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters' gradients of the last step in fp32."""
        from megatron_octo.model.weights import held_parameters

        parameters = held_parameters(self.network.core, self.recipe.model, self.recipe.compute, self.grid)
        return {
            held.key: held.parameter.main_grad.float().clone()  # type: ignore[attr-defined]
            for held in parameters
            if held.parameter.requires_grad
        }


def parity(folder: Path, grid: Any) -> list[dict[str, Any]]:
    """Compare loss and gradients of every back end with fp32."""
    lines: list[dict[str, Any]] = []
    reference: dict[str, torch.Tensor] = {}
    for name, (precision, attention) in CASES.items():
        steps = Steps(small_recipe(folder, precision, attention, grid.world), grid, draw_b=True)
        loss = steps.run(0.0)["loss"]
        found = steps.gradients()
        steps.loader.close()
        reference = reference or found
        errors = {key: float((found[key] - value).norm() / value.norm()) for key, value in reference.items()}
        worst = max(errors, key=lambda key: errors[key])
        lines.append(
            {
                "case": name,
                "backend": str(steps.network.backend),
                "loss": loss,
                "worst_relative_gradient_error": errors[worst],
                "worst_gradient": worst,
            }
        )
    return lines


def speed(recipe: Recipe, grid: Any, count: int) -> dict[str, Any]:
    """Return medians of a recipe's steps."""
    from megatron_octo.recipe.loading import check_batch
    from megatron_octo.sizing.memory import GIB, memory

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    steps = Steps(recipe, grid, draw_b=False)
    records = [steps.run(recipe.optimizer.lr) for _ in range(count)]
    steps.loader.close()
    counted = records[min(WARM_UP, count - 1) :]
    planned = memory(recipe.model, recipe.compute, grid.layout.data, check_batch(recipe, grid.layout.data))
    return {
        "case": recipe.run_dir,
        "backend": str(steps.network.backend),
        "step_ms": round(1e3 * statistics.median(record["seconds"] for record in counted), 1),
        "tokens_per_s_per_gpu": round(statistics.median(record["tokens_per_s"] for record in counted)),
        "tflops_per_gpu": round(statistics.median(record["tflops"] for record in counted), 1),
        "memory_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "planned_gib": round(planned.total / GIB, 2),
        "loss": [round(records[0]["loss"], 4), round(records[-1]["loss"], 4)],
    }


def main() -> int:
    """Check the small model, then measure the recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="recipes/octocoder_lora.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_intermixed_args()
    from megatron_octo.model.platform.mcore import load_mcore

    device = device_of_this_process("cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    load_mcore()
    dist.init_process_group("nccl")
    from megatron_octo.model.platform.grid import Grid

    world = dist.get_world_size()
    shared: list[str | None] = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(shared, src=0)
    folder = Path(str(shared[0]))
    recipe = load_recipe(
        arguments.recipe,
        [
            *arguments.overrides,
            f"run_dir={folder}/run",
            f"data.train=train: 1.0 0:1 {folder}/corpus",
            "data.valid=null",
            "data.tokenizer=null",
            "eval.interval=0",
            f"parallel.tensor={world}",
            f"parallel.sequence={'true' if world > 1 else 'false'}",
        ],
    )
    if dist.get_rank() == 0:
        write_random_corpus(folder / "small_corpus", 60_000, 1001, 200)
        corpus_for(folder / "corpus", recipe, arguments.steps + 1, 512)
    dist.barrier()
    grid = Grid.build(recipe.parallel.layout, device, seed=1)
    lines = [*parity(folder, grid), speed(recipe, grid, arguments.steps)]
    for line in lines if grid.is_main else []:
        print(json.dumps(line))
        keep(arguments.output, {**line, "ranks": world, "machine": machine()})
    dist.barrier()
    if grid.is_main:
        shutil.rmtree(folder)
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
