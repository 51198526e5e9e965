# bench: cpu gpu
"""Whether a resumed run of any recipe is bitwise the one that was never stopped, on this machine.

    python -m benchmarks.exact_resume recipes/santacoderpack.yaml batch.global_size=8 system.deterministic=true

Trains ``--steps`` steps in one go; then, in another directory, half of them, and in a process of its own the rest. Loss
and gradient norm of every step and every file of the last checkpoint (weights, Adam's state, random states) must be the
same. The first half shows that two runs are alike from the start. Exit code 1: they are not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.corpus import overrides_on, write_random_corpus
from benchmarks.machine import keep, machine
from megatron_octo.checkpoint import layout
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.recipe import load_recipe
from megatron_octo.training.rundir import read_metrics


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--nproc", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--place", help="folder for the runs (default: the temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON lines are appended here")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory(dir=args.place) as folder:
        recipe = load_recipe(args.recipe, args.overrides)
        tokens = int(1.1 * (args.steps + 1) * recipe.batch.global_size * recipe.data.seq_length)
        corpus = write_random_corpus(
            Path(folder) / "random", tokens, recipe.model.vocab_size, 1024, learnable=True
        )
        words = [
            *args.overrides,
            *overrides_on(corpus),
            *("checkpoint.keep=1", "schedule.warmup_fraction=null", "schedule.warmup_steps=0"),
            *(f"checkpoint.interval={args.steps}", f"schedule.decay_steps={args.steps}"),
        ]
        command = [
            sys.executable,
            "-m",
            "megatron_octo.train",
            args.recipe,
            "--nproc",
            str(args.nproc),
            *words,
        ]

        def train(run: str, steps: int) -> tuple[list[Any], dict[str, FileRecord]]:
            """Loss and gradient norm by step, and the digests of the last checkpoint's files."""
            where = Path(folder) / run
            subprocess.run([*command, f"run_dir={where}", f"train.steps={steps}"], check=True)
            curve = [(record["step"], record["loss"], record["grad_norm"]) for record in read_metrics(where)]
            manifest = layout.read_manifest(where / layout.CHECKPOINTS / layout.step_name(steps))
            return curve, dict(manifest.files)

        whole, files = train("whole", args.steps)
        train("halves", args.steps // 2)
        resumed, resumed_files = train("halves", args.steps)
    different = [one[0] for one, other in zip(whole, resumed, strict=True) if one != other]
    found = {
        "recipe": args.recipe,
        "overrides": args.overrides,
        "ranks": args.nproc,
        "steps": args.steps,
        "steps_that_differ": different,
        "files": len(files),
        "files_that_differ": [name for name in files if files[name] != resumed_files.get(name)],
        "bit_equal": not different and files == resumed_files,
        "losses": [whole[0][1], whole[-1][1]],
        "machine": machine(),
    }
    keep(args.output, found)
    print(json.dumps({key: value for key, value in found.items() if key != "machine"}, indent=1))
    return 0 if found["bit_equal"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
