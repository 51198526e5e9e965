"""Training throughput of a recipe's model on this machine, through the product's own command.

    python benchmarks/throughput.py recipes/santacoderpack.yaml --nproc 1 --steps 20 model.hidden_dropout=0.0

Trains on packed random documents and reports medians over the steps after warm-up: tokens/s, TFLOP/s and MFU a
GPU (the formula is printed by the run), memory, packing fill and time in data. One JSON object a run is appended
to ``--output``.
"""

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpus import overrides_on
from benchmarks.machine import keep, machine
from benchmarks.training import corpus_for, parser_of, train_command
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.runfiles.attempts import read_attempt
from megatron_octo.runfiles.run_directory import read_metrics

WARM_UP = 5


def benchmark(
    recipe_path: str, nproc: int, steps: int, mean_length: int, overrides: list[str]
) -> dict[str, Any]:
    """Train ``steps`` steps and summarise them."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(recipe_path, overrides)
        corpus = corpus_for(Path(folder) / "random", recipe, steps, mean_length)
        changed = [
            *overrides,
            *overrides_on(corpus),
            f"run_dir={folder}/run",
            "checkpoint.interval=0",
            f"train.steps={steps}",
            "schedule.warmup_fraction=null",
            "schedule.warmup_steps=null",
        ]
        subprocess.run(train_command(recipe_path, nproc, changed), check=True)
        metrics = read_metrics(f"{folder}/run")
        kernels = read_attempt(f"{folder}/run", 1).kernels
    counted = metrics[min(WARM_UP, len(metrics) - 1) :]

    def median(key: str) -> float | None:
        values = [record[key] for record in counted if record[key] is not None]
        return statistics.median(values) if values else None

    step_seconds, tokens_per_second = median("step_s"), median("tokens_per_s")
    assert step_seconds and tokens_per_second
    return {
        "recipe": recipe_path,
        "overrides": overrides,
        "ranks": nproc,
        "mean_document": mean_length,
        **kernels,
        "steps_counted": len(counted),
        "step_ms": round(1e3 * step_seconds, 1),
        "tokens_per_s_per_gpu": round(tokens_per_second / nproc),
        "tflops_per_gpu": round(median("tflops_per_gpu") or 0.0, 1),
        "mfu": median("mfu"),
        "memory_gib": median("memory_gib"),
        "fill": median("fill"),
        "time_in_data": (median("data_s") or 0.0) / step_seconds,
        "first_step_s": round(metrics[0]["step_s"], 1),
        "loss": [round(metrics[0]["loss"], 4), round(metrics[-1]["loss"], 4)],
        "machine": machine(),
    }


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--mean-document", type=int, default=1024, help="tokens (default: 1024, eight a row of 8192)"
    )
    arguments = parser.parse_intermixed_args()
    found = benchmark(
        arguments.recipe, arguments.nproc, arguments.steps, arguments.mean_document, arguments.overrides
    )
    keep(arguments.output, found)
    found["machine"] = found["machine"]["gpus"] or "CPU"
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
