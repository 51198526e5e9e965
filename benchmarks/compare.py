# bench: cpu gpu
"""What an option does to speed and to the loss: the same training twice, without and with it, in one run.

    python -m benchmarks.compare recipes/santacoderpack.yaml batch.global_size=8 --with train.fp8=current --steps 100
    python -m benchmarks.compare recipes/santacoderpack.yaml --with optimizer.state_dtype=bf16 --data data/commits

Without ``--data`` the documents are random words with the frequencies of a language, so that there is something to
learn. Reported: tokens/s and memory of both and their ratio, and how far the second loss curve is from the first: the
largest relative difference of a step, and those of the means of all steps and of the last ten.
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
from megatron_octo.runfiles.run_directory import read_metrics

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
    subprocess.run(train_command(recipe, nproc, words), check=True, stdout=subprocess.DEVNULL)
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
    parser = parser_of(__doc__, overrides="for both")
    parser.add_argument("--with", dest="option", nargs="+", required=True, metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--data", type=Path, help="prefix of a data set (default: random words)")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(args.recipe, args.overrides)
        corpus = args.data or corpus_for(Path(folder) / "random", recipe, args.steps, learnable=True)
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
