# bench: cpu gpu
"""Measure an option's effect on speed and on the loss: the same training without and with it, in one run.

    python -m benchmarks.compare recipes/santacoderpack.yaml batch.global_size=8 --with train.fp8=current --steps 100
    python -m benchmarks.compare recipes/santacoderpack.yaml --with optimizer.state_dtype=bf16 --data data/commits

Without ``--data`` the documents are random words with the frequencies of a language, so that there is something to
learn. Reported: tokens/s and memory of both and their ratio, and the distance of the second loss curve from the first:
the largest relative difference of a step, and those of the means of all steps and of the last ten.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.support.training import Trainings, medians, parser_of, publish
from megatron_octo.runfiles.run_directory import read_metrics

WARM_UP = 5
LAST = 10


def summary(run: Path, nproc: int) -> dict[str, Any]:
    """Return the losses of a run, and medians after the warm-up."""
    records = read_metrics(run)
    counted = records[min(WARM_UP, len(records) - 1) :]
    median = medians(counted, "tokens_per_s", "tflops_per_gpu")
    return {
        "tokens_per_s_per_gpu": round((median["tokens_per_s"] or 0.0) / nproc),
        "tflops_per_gpu": round(median["tflops_per_gpu"] or 0.0, 1),
        "memory_gib": max((r["memory_gib"] for r in counted if r["memory_gib"]), default=None),
        "losses": [record["loss"] for record in records],
    }


def difference(one: list[float], other: list[float]) -> dict[str, float]:
    """Return relative differences of two loss curves."""
    last_one, last_other = (statistics.fmean(losses[-LAST:]) for losses in (one, other))
    return {
        "largest_of_a_step": max(abs(b / a - 1) for a, b in zip(one, other, strict=True)),
        "of_the_mean": abs(statistics.fmean(other) / statistics.fmean(one) - 1),
        "of_the_last_steps": abs(last_other / last_one - 1),
    }


def main() -> None:
    """Train both ways and compare."""
    parser = parser_of(__doc__, overrides="for both")
    parser.add_argument("--with", dest="option", nargs="+", required=True, metavar="section.key=value")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--data", type=Path, help="prefix of a data set (default: random words)")
    args = parser.parse_intermixed_args()
    words = [
        *(f"train.steps={args.steps}", "checkpoint.interval=0", f"schedule.decay_steps={args.steps}"),
        *("schedule.warmup_fraction=null", f"schedule.warmup_steps={args.steps // 10}", *args.overrides),
    ]
    with tempfile.TemporaryDirectory() as folder:
        documents = {"steps": args.steps, "learnable": True}
        runs = Trainings(folder, args.recipe, args.nproc, args.overrides, args.data, **documents)
        without, with_option = (
            summary(runs.train(name, *words, *more, quiet=True), args.nproc)
            for name, more in (("without", []), ("with", args.option))
        )
    found = {
        "recipe": args.recipe,
        "overrides": args.overrides,
        "option": args.option,
        "ranks": args.nproc,
        "data": str(args.data) if args.data else "random words",
        "without": without,
        "with": with_option,
        "ratio": round(with_option["tokens_per_s_per_gpu"] / without["tokens_per_s_per_gpu"], 3),
        "loss_difference": difference(without["losses"], with_option["losses"]),
    }
    publish(args.output, found)


if __name__ == "__main__":
    main()
