"""Runs of one small model on every layout and option that this machine's GPUs allow: same losses, exact resume.

    torchrun --nproc-per-node 2 benchmarks/gpu_layouts.py --output benchmarks/results/layouts.jsonl

Each case trains six steps with validation and a checkpoint at step 3, then loses the last checkpoint and resumes from
step 3. Reported: the largest difference of its losses and (relative) gradient norms from the first case's, and whether
the resumed steps have the same losses and gradient norms to the last bit. Without GPUs it runs on gloo, and only the
torch attention.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.corpus import write_random_corpus
from benchmarks.machine import keep
from megatron_octo.config import Recipe
from megatron_octo.recipe import build_recipe

Sections = dict[str, dict[str, Any]]
DROPOUT = {"hidden_dropout": 0.1, "attention_dropout": 0.1}
CASES: dict[str, Sections] = {
    "data 2, overlapped": {},
    "data 2, not overlapped": {"system": {"overlap": False}},
    "tensor 2": {"parallel": {"tensor": 2}},
    "tensor 2 + sequence": {"parallel": {"tensor": 2, "sequence": True}},
    "pipeline 2": {"parallel": {"pipeline": 2}},
    "recompute mlp": {"train": {"recompute": "mlp"}},
    "recompute full": {"train": {"recompute": "full"}},
    "torch attention": {"system": {"attention": "torch"}},
    "FlashAttention-4": {"system": {"attention": "flash4"}},
    "FlashAttention-4, deterministic": {"system": {"attention": "flash4", "deterministic": True}},
    "FlashAttention-4, tensor 2 + sequence": {
        "system": {"attention": "flash4"},
        "parallel": {"tensor": 2, "sequence": True},
    },
    "fp8": {"train": {"fp8": "current"}},
    "fp8, tensor 2 + sequence": {
        "train": {"fp8": "current"},
        "parallel": {"tensor": 2, "sequence": True},
    },
    "fp8, pipeline 2": {"train": {"fp8": "current"}, "parallel": {"pipeline": 2}},
    "bf16 gradients and moments": {"optimizer": {"state_dtype": "bf16"}},
    "dropout": {"model": DROPOUT},
    "dropout, tensor 2 + sequence": {"model": DROPOUT, "parallel": {"tensor": 2, "sequence": True}},
    "dropout, pipeline 2": {"model": DROPOUT, "parallel": {"pipeline": 2}},
    "deterministic, dropout": {"model": DROPOUT, "system": {"deterministic": True}},
}
GPU_ONLY = {"bf16 gradients and moments", *(name for name in CASES if name.startswith("FlashAttention-4"))}


def make_recipe(folder: Path, name: str, sections: Sections) -> Recipe:
    tree: dict[str, Any] = {
        "run_dir": str(folder / name.replace(" ", "-").replace(",", "")),
        "model": {
            "num_layers": 4,
            "hidden_size": 256,
            "num_attention_heads": 4,
            "ffn_hidden_size": 1024,
            "max_position_embeddings": 512,
            "vocab_size": 1001,
            "init_std": 0.05,
        },
        "data": {
            "train": f"train: 1.0 0:0.9 {folder}/random",
            "valid": f"valid: 1.0 0.9:1 {folder}/random",
            "seq_length": 512,
        },
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 1e-3},
        "train": {"steps": 6},
        "eval": {"interval": 3, "steps": 2},
        "checkpoint": {"interval": 3},
        "log": {"tensorboard": False},
    }
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values}
    return build_recipe(tree)


class Processes:
    """Process groups that come and go with each run: communicators left open add up until none can be made."""

    def __init__(self, device: torch.device):
        self.device, self._count = device, 0
        self.store, self.rank, self.world = next(dist.rendezvous("env://"))

    def join(self) -> None:
        self._count += 1
        gpu = self.device.type == "cuda"
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=dist.PrefixStore(str(self._count), self.store),
            rank=self.rank,
            world_size=self.world,
        )


def run(recipe: Recipe, processes: Processes) -> None:
    from megatron.core import parallel_state as mpu

    from megatron_octo.model.grid import Grid
    from megatron_octo.training.loop import Run

    torch.use_deterministic_algorithms(recipe.system.deterministic)
    if recipe.system.deterministic:
        os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    processes.join()
    grid = Grid.build(recipe.parallel, processes.device, recipe.train.seed)
    lost = Path(recipe.run_dir) / "checkpoints/step-00000006"
    if grid.is_main and lost.exists():
        lost.rename(lost.with_name("lost"))
    dist.barrier()
    if Run(recipe, grid).train():
        raise RuntimeError("the run did not finish")
    dist.barrier()
    mpu.destroy_model_parallel()
    dist.destroy_process_group()


def examine(recipe: Recipe, processes: Processes) -> list[dict[str, Any]]:
    """Train, lose the last checkpoint, resume; every record of the metrics in the order of writing."""
    run(recipe, processes)
    run(recipe, processes)
    with open(Path(recipe.run_dir) / "metrics.jsonl", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", action="append", help="only this one; may be repeated", choices=CASES)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from megatron_octo.model.mcore import load_mcore

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    load_mcore()
    processes = Processes(device)
    from megatron_octo.training.records import read_attempt
    from megatron_octo.training.rundir import environment

    if processes.rank == 0:
        shared = Path(tempfile.mkdtemp())
        write_random_corpus(shared / "random", 120_000, 1001, 150)
        processes.store.set("folder", str(shared))
    shared = Path(processes.store.get("folder").decode())  # waits for rank 0
    reference: list[float] = []
    reference_norms: list[float] = []
    failures = 0
    for name, sections in CASES.items():
        if (not gpu and name in GPU_ONLY) or (arguments.case and name not in arguments.case):
            continue
        recipe = make_recipe(shared, name, sections)
        records = examine(recipe, processes)
        first = {r["step"]: r for r in records if r["attempt"] == 1}
        again = [r for r in records if r["attempt"] == 2]
        losses = [first[step]["loss"] for step in sorted(first)]
        norms = [first[step]["grad_norm"] for step in sorted(first)]
        reference, reference_norms = reference or losses, reference_norms or norms
        exact = [r["step"] for r in again] == [4, 5, 6] and all(
            (r["loss"], r["grad_norm"]) == (first[r["step"]]["loss"], first[r["step"]]["grad_norm"])
            for r in again
        )
        failures += not exact
        line = {
            "case": name,
            "ranks": processes.world,
            "max_loss_difference": max(abs(a - b) for a, b in zip(losses, reference)),
            "max_norm_difference": max(abs(a / b - 1) for a, b in zip(norms, reference_norms)),
            "resume_bit_equal": exact,
            **read_attempt(recipe.run_dir, 1).kernels,
            "losses": losses,
            "machine": environment()["gpus"] or "CPU",
            "packages": environment()["packages"],
        }
        if processes.rank == 0:
            print(json.dumps({key: value for key, value in line.items() if key != "packages"}), flush=True)
            keep(arguments.output, line)
    return min(failures, 1)


if __name__ == "__main__":
    raise SystemExit(main())
