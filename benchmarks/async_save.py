# bench: cpu gpu
"""Measure the cost of saves for the training loop, and the time of a resume.

    python -m benchmarks.async_save recipes/santacoderpack.yaml --nproc 1 --steps 60 --interval 20

Trains twice on packed random documents, with and without ``checkpoint.asynchronous``, and takes the time of every line
that the run prints. The stall of a save is the time by which the steps from its start to its commit exceed as many
median steps without a save in flight, in seconds and in such steps. The stall of the steps after the first one, which
take memory for the copies, is in seconds. Then the asynchronous run loses its last checkpoint and is started again:
seconds from the start of the process to the end of its first step, and whether loss, gradient norm and the last
checkpoint's files are bitwise those of the run that was not stopped (they must be with ``system.deterministic=true``).
One JSON object is printed and appended to ``--output``.
"""

import shutil
import tempfile
from typing import Any

from benchmarks.support.run_log import cost_of_saves, early_stall, first_moments, timed_lines
from benchmarks.support.training import NO_WARM_UP, Trainings, bitwise, outcome, parser_of, publish
from megatron_octo.checkpoint import directory as layout

WAYS = {"waiting": False, "asynchronous": True}


def benchmark(
    runs: Trainings, steps: int, interval: int, ways: tuple[str, ...] = ("waiting", "asynchronous")
) -> dict[str, Any]:
    """Train with each way of saving, then resume the last run, which must be the asynchronous one."""
    found: dict[str, Any] = {}
    for name in ways:
        command = runs.command(
            name,
            *(f"checkpoint.interval={interval}", "checkpoint.keep=2", *NO_WARM_UP),
            *(f"schedule.decay_steps={2 * steps}", f"train.steps={steps}"),
            f"checkpoint.asynchronous={str(WAYS[name]).lower()}",
        )
        lines = timed_lines(command)
        found[name] = cost_of_saves(lines)
        found[name]["early_stall_s"] = early_stall(lines, found[name]["step_s"])
        if name == "waiting":
            shutil.rmtree(runs.folder / name)  # the disk may have no room for both
    run = runs.folder / "asynchronous"
    whole = outcome(run, steps)
    last = run / layout.CHECKPOINTS / layout.step_name(steps)
    size = sum(path.stat().st_size for path in last.iterdir())
    shutil.rmtree(last)
    lines = timed_lines(command)
    return {
        **{"steps": steps, "interval": interval, "checkpoint_gb": round(size / 1e9, 3), **found},
        "resume_s": first_moments(lines),
        "resume_early_stall_s": early_stall(lines, found["asynchronous"]["step_s"]),
        **bitwise(whole, outcome(run, steps)),
    }


def main() -> None:
    """Measure both ways of saving, or the asynchronous one alone."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--interval", type=int, default=20, help="steps between saves")
    parser.add_argument("--only-asynchronous", action="store_true", help="no run whose saves wait")
    parser.add_argument("--place", help="folder on the disk to save to (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    ways = ("asynchronous",) if args.only_asynchronous else tuple(WAYS)
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        runs = Trainings(folder, args.recipe, args.nproc, args.overrides, steps=args.steps)
        found = benchmark(runs, args.steps, args.interval, ways)
    given = {"recipe": args.recipe, "overrides": args.overrides, "ranks": args.nproc}
    publish(args.output, {**given, **found})


if __name__ == "__main__":
    main()
