# bench: cpu gpu
"""A run that is killed after its first save, and started again, through the product's own command.

    python -m benchmarks.restart recipes/santacoderpack.yaml --nproc 1 --interval 10 --steps 3

Trains on packed random documents until the first asynchronous save is complete, and kills all processes at once; then
starts the same run again for some steps from that save. For models so large that a disk holds one checkpoint: see
async_save.py for the rest. Shown: steps before the save, the save, by how much the steps after it took longer (as
there), seconds from the start to the end of the first step, and by how much the steps differ that both attempts made.
One JSON object is printed and appended to ``--output``.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.async_save import SAVED, WARM_UP, examine, first_moments, timed_lines
from benchmarks.corpus import overrides_on
from benchmarks.machine import keep, machine
from benchmarks.training import corpus_for, parser_of, train_command
from megatron_octo.checkpoint import directory as layout
from megatron_octo.recipe.loading import load_recipe

_LONG = 1000  # steps: the save is complete before


def benchmark(
    recipe_path: str, nproc: int, interval: int, steps: int, place: str | None, overrides: list[str]
) -> dict[str, Any]:
    """Train, save, kill, start again."""
    with tempfile.TemporaryDirectory(dir=place, ignore_cleanup_errors=True) as folder:
        corpus = corpus_for(Path(folder) / "random", load_recipe(recipe_path, overrides), 4 * interval)
        command = train_command(
            recipe_path,
            nproc,
            [
                *overrides,
                *overrides_on(corpus),
                *(
                    "schedule.warmup_fraction=null",
                    "schedule.warmup_steps=0",
                    f"schedule.decay_steps={_LONG}",
                ),
                *(f"run_dir={folder}/run", "checkpoint.asynchronous=true", f"train.steps={_LONG}"),
            ],
        )
        lines = timed_lines([*command, f"checkpoint.interval={interval}"], SAVED.match)
        if not SAVED.match(lines[-1][1]):
            raise RuntimeError(f"the run ended before its save was complete: {lines[-1][1]}")
        directory = Path(folder) / "run" / layout.CHECKPOINTS / layout.step_name(interval)
        size = sum(path.stat().st_size for path in directory.iterdir())
        # It is not to save again: there may be no room for that.
        last = interval + steps
        again = timed_lines([*command, "checkpoint.interval=0", f"train.steps={last}"])
        with open(Path(folder) / "run" / "metrics.jsonl", encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
    first, second = ({r["step"]: r for r in records if r["attempt"] == number} for number in (1, 2))
    before = [first[step] for step in range(WARM_UP + 1, interval + 1)]
    # Where the next save is due before this one is complete, training stands still from there on: see waited_s.
    (save,) = examine(lines)["saves"]

    def median(key: str) -> float:
        return statistics.median(float(record[key] or 0) for record in before)

    both = [(first[step], second[step]) for step in sorted(first.keys() & second.keys())]
    return {
        **{"recipe": recipe_path, "overrides": overrides, "ranks": nproc, "interval": interval},
        "steps_counted": len(before),
        "step_s": round(median("step_s"), 4),
        "tokens_per_s_per_gpu": round(median("tokens_per_s") / nproc),
        "tflops_per_gpu": round(median("tflops_per_gpu"), 1),
        **{key: records[-1][key] for key in ("memory_gib", "mfu")},
        "checkpoint_gb": round(size / 1e9, 3),
        "save_s": save["seconds"],
        "waited_s": save["copy_s"],  # also of the next save for this one
        "steps_meanwhile": save["steps_in_flight"],
        "stall_s": save["stall_s"],
        "stall_steps": save["stall_steps"],
        "resumed_at": min(second) - 1,
        "resume_s": first_moments(again),
        "steps_of_both": len(both),
        "largest_loss_difference": max((abs(a["loss"] - b["loss"]) for a, b in both), default=None),
        "bit_equal": all((a["loss"], a["grad_norm"]) == (b["loss"], b["grad_norm"]) for a, b in both)
        if both
        else None,
        "machine": machine(),
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--interval", type=int, default=10, help="steps before the save (default: 10)")
    parser.add_argument("--steps", type=int, default=3, help="steps after it (default: 3)")
    parser.add_argument("--place", help="folder on the disk to save to (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    if args.interval <= WARM_UP + 1:
        parser.error(f"--interval: more than {WARM_UP + 1} steps, the first are not counted")
    found = benchmark(args.recipe, args.nproc, args.interval, args.steps, args.place, args.overrides)
    keep(args.output, found)
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
