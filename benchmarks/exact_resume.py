# bench: cpu gpu
"""Whether a resumed run of any recipe is bitwise the one that was never stopped, on this machine.

    python -m benchmarks.exact_resume recipes/santacoderpack.yaml batch.global_size=8 system.deterministic=true

Trains ``--steps`` steps in one go; then, in another directory, half of them, and in a process of its own the rest. Loss
and gradient norm of every step and every file of the last checkpoint (weights, Adam's state, random states) must be the
same. The first half shows that two runs are alike from the start. Exit code 1: they are not.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.corpus import overrides_on
from benchmarks.machine import keep, machine
from benchmarks.training import Outcome, bitwise, corpus_for, outcome, parser_of, train_command
from megatron_octo.recipe.loading import load_recipe


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--place", help="folder for the runs (default: the temporary folder)")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        recipe = load_recipe(args.recipe, args.overrides)
        corpus = corpus_for(Path(folder) / "random", recipe, args.steps, learnable=True)
        words = [
            *args.overrides,
            *overrides_on(corpus),
            *("checkpoint.keep=1", "schedule.warmup_fraction=null", "schedule.warmup_steps=0"),
            *(f"checkpoint.interval={args.steps}", f"schedule.decay_steps={args.steps}"),
        ]
        command = train_command(args.recipe, args.nproc, words)

        def train(run: str, steps: int) -> Outcome:
            where = Path(folder) / run
            subprocess.run([*command, f"run_dir={where}", f"train.steps={steps}"], check=True)
            return outcome(where, steps)

        whole = train("whole", args.steps)
        train("halves", args.steps // 2)
        resumed = train("halves", args.steps)
    curve = whole[0]
    found = {
        "recipe": args.recipe,
        "overrides": args.overrides,
        "ranks": args.nproc,
        "steps": args.steps,
        **bitwise(whole, resumed),
        "losses": [curve[min(curve)][0], curve[max(curve)][0]],
        "machine": machine(),
    }
    keep(args.output, found)
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))
    return 0 if found["bit_equal"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
