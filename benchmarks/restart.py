# bench: cpu gpu
"""Kill a run after its first save and start it again, through the product's own command.

    python -m benchmarks.restart recipes/santacoderpack.yaml --nproc 1 --interval 10 --steps 3

Trains on packed random documents until the first asynchronous save is complete, and kills all processes at once; then
starts the same run again for some steps from that save. Made for models so large that a disk holds one checkpoint;
async_save.py shows the rest. Reported: the steps before the save, the save, the stall of the steps after it, seconds
from the start to the end of the first step, and the differences of the steps that both attempts made. One JSON object
is printed and appended to ``--output``.
"""

import json
import tempfile
from typing import Any

from benchmarks.support.run_log import SAVED, WARM_UP, cost_of_saves, first_moments, timed_lines
from benchmarks.support.training import NO_WARM_UP, Trainings, medians, parser_of, publish
from megatron_octo.checkpoint import directory as layout

_LONG = 1000  # steps: the save is complete before


def benchmark(runs: Trainings, nproc: int, interval: int, steps: int) -> dict[str, Any]:
    """Train, save, kill, start again."""
    words = [*NO_WARM_UP, f"schedule.decay_steps={_LONG}", "checkpoint.asynchronous=true"]
    saving = [f"checkpoint.interval={interval}", f"train.steps={_LONG}"]
    lines = timed_lines(runs.command("run", *words, *saving), SAVED.match)
    if not SAVED.match(lines[-1][1]):
        raise RuntimeError(f"the run ended before its save was complete: {lines[-1][1]}")
    run = runs.folder / "run"
    size = sum(path.stat().st_size for path in (run / layout.CHECKPOINTS / layout.step_name(interval)).iterdir())
    # The second attempt saves nothing: the disk may have no room for it.
    again = timed_lines(runs.command("run", *words, "checkpoint.interval=0", f"train.steps={interval + steps}"))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first, second = ({r["step"]: r for r in records if r["attempt"] == number} for number in (1, 2))
    before = [first[step] for step in range(WARM_UP + 1, interval + 1)]
    middle = {key: value or 0.0 for key, value in medians(before, "step_s", "tokens_per_s", "tflops_per_gpu").items()}
    # Where the next save is due before this one is complete, training stands still from there on: see waited_s.
    (save,) = cost_of_saves(lines)["saves"]
    both = [(first[step], second[step]) for step in sorted(first.keys() & second.keys())]
    equal = [(a["loss"], a["grad_norm"]) == (b["loss"], b["grad_norm"]) for a, b in both]
    return {
        "steps_counted": len(before),
        "step_s": round(middle["step_s"], 4),
        "tokens_per_s_per_gpu": round(middle["tokens_per_s"] / nproc),
        "tflops_per_gpu": round(middle["tflops_per_gpu"], 1),
        **{key: records[-1][key] for key in ("memory_gib", "mfu")},
        "checkpoint_gb": round(size / 1e9, 3),
        "save_s": save["seconds"],
        "waited_s": save["copy_s"],  # includes the wait of the next save for this one
        "steps_meanwhile": save["steps_in_flight"],
        "stall_s": save["stall_s"],
        "stall_steps": save["stall_steps"],
        "resumed_at": min(second) - 1,
        "resume_s": first_moments(again),
        "steps_of_both": len(both),
        "largest_loss_difference": max((abs(a["loss"] - b["loss"]) for a, b in both), default=None),
        "bit_equal": all(equal) if equal else None,
    }


def main() -> None:
    """Measure one restart."""
    parser = parser_of(__doc__)
    parser.add_argument("--interval", type=int, default=10, help="steps before the save (default: 10)")
    parser.add_argument("--steps", type=int, default=3, help="steps after it (default: 3)")
    parser.add_argument("--place", help="folder on the disk to save to (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    if args.interval <= WARM_UP + 1:
        parser.error(f"--interval: more than {WARM_UP + 1} steps, the first are not counted")
    with tempfile.TemporaryDirectory(dir=args.place, ignore_cleanup_errors=True) as folder:
        runs = Trainings(folder, args.recipe, args.nproc, args.overrides, steps=4 * args.interval)
        found = benchmark(runs, args.nproc, args.interval, args.steps)
    given = {
        "recipe": args.recipe,
        "overrides": args.overrides,
        "ranks": args.nproc,
        "interval": args.interval,
    }
    publish(args.output, {**given, **found})


if __name__ == "__main__":
    main()
