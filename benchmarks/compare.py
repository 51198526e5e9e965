# bench: cpu gpu
"""What an option does to speed and to the loss: the same training twice, without and with it, in one run.

    python -m benchmarks.compare recipes/santacoderpack.yaml batch.global_size=8 --with train.fp8=current --steps 100
    python -m benchmarks.compare recipes/santacoderpack.yaml --with optimizer.state_dtype=bf16 --data data/commits

Without ``--data`` the documents are random words with the frequencies of a language, so that there is something to
learn. Reported: tokens/s and memory of both and their ratio, and how far the second loss curve is from the first: the
largest relative difference of a step, and those of the means of all steps and of the last ten.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpus import overrides_on, write_random_corpus
from benchmarks.machine import keep, machine
from megatron_octo.recipe import load_recipe
from megatron_octo.training.rundir import read_metrics

WARM_UP = 5
LAST = 10


def train(
    recipe: str, run: Path, corpus: Path, nproc: int, steps: int, overrides: list[str]
) -> dict[str, Any]:
    """Train from the recipe's own start; losses, and medians after the warm-up."""
    words = [
        *overrides_on(corpus),
        f"run_dir={run}",
        f"train.steps={steps}",
        "checkpoint.interval=0",
        "schedule.warmup_fraction=null",
        f"schedule.warmup_steps={steps // 10}",
        f"schedule.decay_steps={steps}",
        *overrides,
    ]
    command = [sys.executable, "-m", "megatron_octo.train", recipe, "--nproc", str(nproc), *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    records = read_metrics(run)
    counted = records[min(WARM_UP, len(records) - 1) :]
    return {
        "tokens_per_s_per_gpu": round(statistics.median(r["tokens_per_s"] for r in counted) / nproc),
        "tflops_per_gpu": round(statistics.median(r["tflops_per_gpu"] for r in counted), 1),
        "memory_gib": max((r["memory_gib"] for r in counted if r["memory_gib"]), default=None),
        "losses": [record["loss"] for record in records],
    }


def difference(one: list[float], other: list[float]) -> dict[str, float]:
    """Relative differences of two loss curves."""
    last_one, last_other = (statistics.fmean(losses[-LAST:]) for losses in (one, other))
    return {
        "largest_of_a_step": max(abs(b / a - 1) for a, b in zip(one, other, strict=True)),
        "of_the_mean": abs(statistics.fmean(other) / statistics.fmean(one) - 1),
        "of_the_last_steps": abs(last_other / last_one - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for both")
    parser.add_argument("--with", dest="option", nargs="+", required=True, metavar="section.key=value")
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--data", type=Path, help="prefix of a data set (default: random words)")
    parser.add_argument("--output", type=Path, help="JSON lines are appended here")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(args.recipe, args.overrides)
        tokens = int(1.1 * (args.steps + 1) * recipe.batch.global_size * recipe.data.seq_length)
        corpus = args.data or write_random_corpus(
            Path(folder) / "random", tokens, recipe.model.vocab_size, 1024, learnable=True
        )
        both = [
            train(args.recipe, Path(folder) / name, corpus, args.nproc, args.steps, [*args.overrides, *more])
            for name, more in (("without", []), ("with", args.option))
        ]
    found = {
        "recipe": args.recipe,
        "overrides": args.overrides,
        "option": args.option,
        "ranks": args.nproc,
        "data": str(args.data) if args.data else "random words",
        "without": both[0],
        "with": both[1],
        "ratio": round(both[1]["tokens_per_s_per_gpu"] / both[0]["tokens_per_s_per_gpu"], 3),
        "loss_difference": difference(both[0]["losses"], both[1]["losses"]),
        "machine": machine(),
    }
    keep(args.output, found)
    for each in both:
        each["losses"] = [each["losses"][0], each["losses"][-1]]
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
