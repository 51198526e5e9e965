# bench: cpu gpu
"""Check that a resumed run of a recipe is bitwise the one that was never stopped, on this machine.

    python -m benchmarks.exact_resume recipes/santacoderpack.yaml batch.global_size=8 system.deterministic=true

Trains ``--steps`` steps without a stop; then, in another directory, half of them, and in a process of its own the
rest. Loss and gradient norm of every step and every file of the last checkpoint (weights, Adam's state, random states)
must be the same. The first half shows that two runs are alike from the start. Exit code 1: they differ.
"""

import tempfile

from benchmarks.support.training import NO_WARM_UP, Trainings, bitwise, outcome, parser_of, publish


def main() -> int:
    """Train in one piece and in two, and compare."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--place", help="folder for the runs (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    words = [
        *("checkpoint.keep=1", *NO_WARM_UP),
        *(f"checkpoint.interval={args.steps}", f"schedule.decay_steps={args.steps}"),
    ]
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        runs = Trainings(folder, args.recipe, args.nproc, args.overrides, steps=args.steps, learnable=True)
        whole = outcome(runs.train("whole", *words, f"train.steps={args.steps}"), args.steps)
        runs.train("halves", *words, f"train.steps={args.steps // 2}")
        resumed = outcome(runs.train("halves", *words, f"train.steps={args.steps}"), args.steps)
    curve = whole[0]
    found = {
        **{"recipe": args.recipe, "overrides": args.overrides, "ranks": args.nproc, "steps": args.steps},
        **bitwise(whole, resumed),
        "losses": [curve[min(curve)][0], curve[max(curve)][0]],
    }
    publish(args.output, found)
    return 0 if found["bit_equal"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
