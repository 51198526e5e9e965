"""Measure the training throughput of a recipe's model on this machine, through the product's own command.

    python -m benchmarks.throughput recipes/santacoderpack.yaml --nproc 1 --steps 20 model.hidden_dropout=0.0

Trains on packed random documents and reports medians over the steps after warm-up: tokens/s, TFLOP/s and MFU per GPU
(the run prints the formula), memory, packing fill and time in data. One JSON object per run is appended to
``--output``.
"""

import json
import tempfile
from typing import Any

from benchmarks.support.machine import keep, machine
from benchmarks.support.training import Trainings, medians, parser_of
from megatron_octo.runfiles.attempts import read_attempt
from megatron_octo.runfiles.run_directory import read_metrics

WARM_UP = 5
_MEDIANS = ("step_s", "tokens_per_s", "tflops_per_gpu", "mfu", "memory_gib", "fill", "data_s")


def benchmark(recipe_path: str, nproc: int, steps: int, mean_length: int, overrides: list[str]) -> dict[str, Any]:
    """Train ``steps`` steps and summarise them."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Trainings(folder, recipe_path, nproc, overrides, steps=steps, mean_length=mean_length)
        run = runs.train(
            "run",
            *("checkpoint.interval=0", f"train.steps={steps}"),
            *("schedule.warmup_fraction=null", "schedule.warmup_steps=null"),
        )
        metrics = read_metrics(run)
        kernels = read_attempt(run, 1).kernels
    counted = metrics[min(WARM_UP, len(metrics) - 1) :]
    median = medians(counted, *_MEDIANS)
    assert median["step_s"] and median["tokens_per_s"]
    return {
        "recipe": recipe_path,
        "overrides": overrides,
        "ranks": nproc,
        "mean_document": mean_length,
        **kernels,
        "steps_counted": len(counted),
        "step_ms": round(1e3 * median["step_s"], 1),
        "tokens_per_s_per_gpu": round(median["tokens_per_s"] / nproc),
        "tflops_per_gpu": round(median["tflops_per_gpu"] or 0.0, 1),
        "mfu": median["mfu"],
        "memory_gib": median["memory_gib"],
        "fill": median["fill"],
        "time_in_data": (median["data_s"] or 0.0) / median["step_s"],
        "first_step_s": round(metrics[0]["step_s"], 1),
        "loss": [round(metrics[0]["loss"], 4), round(metrics[-1]["loss"], 4)],
        "machine": machine(),
    }


def main() -> int:
    """Measure one recipe."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--mean-document", type=int, default=1024, help="tokens (default: 1024, eight per row of 8192)")
    arguments = parser.parse_intermixed_args()
    found = benchmark(arguments.recipe, arguments.nproc, arguments.steps, arguments.mean_document, arguments.overrides)
    keep(arguments.output, found)
    found["machine"] = found["machine"]["gpus"] or "CPU"
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
