# bench: cpu
"""Kill every conversion at random moments, start it again, and compare the bytes with those of an undisturbed run.

    python -m benchmarks.convert_kills                     # 20 interruptions, seed 0
    python -m benchmarks.convert_kills --kills 100 --seed 7

Every command (from-hf, reshard, to-bigcode, from-bigcode, to-hf) gets a signal at moments drawn from the length of an
undisturbed run, most of them in its second half, because the first is imports; then the same command must finish with
the files of the undisturbed run. Every second round interrupts twice in a row. Until then nothing may stand at the
final name.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.convert import make_model
from benchmarks.support import kill_driver
from benchmarks.support.machine import keep, machine
from megatron_octo.config.model import ModelConfig

MODEL = ModelConfig(
    num_layers=8,
    hidden_size=1024,
    num_attention_heads=16,
    ffn_hidden_size=4096,
    max_position_embeddings=2048,
    vocab_size=49152,
)
_JOURNAL = ".journal.json"


def make_task(step: str, source: Path, target: Path, options: list[str]) -> kill_driver.Task:
    """Return the task of one conversion, which works in a hidden directory beside its target."""
    partial, kept = target.with_name(f".{target.name}.partial"), 0

    def leftovers() -> list[Path]:
        if not partial.exists():
            return []
        # Killed right after the result got its name, it leaves a journal, which the next command of that name removes.
        done = target.exists() and {path.name for path in partial.iterdir()} <= {_JOURNAL}
        return [] if done else [partial]

    def check(wanted: dict[str, str]) -> None:
        nonlocal kept
        if target.exists():
            assert kill_driver.digests([target], target) == wanted, "half an output stands at the final name"
        journal = partial / _JOURNAL
        kept = len(json.loads(journal.read_text())["files"]) if journal.is_file() else 0

    return kill_driver.Task(
        [sys.executable, "-m", "megatron_octo.convert", step, str(source), str(target), *options],
        target,
        lambda: [target],
        leftovers,
        lambda errors: kept,
        check,
        target.exists,
    )


def make_tasks(folder: Path) -> dict[str, kill_driver.Task]:
    """Convert in all directions, the result of one being the input of the next; returns the same with other outputs.

    The record of a conversion depends on the times of its input files: these are written once.
    """
    layout = ["--tensor", "2", "--pipeline", "4"]
    steps = [
        ("from-hf", "hf", "ours", ["--shard-size", "0.03"]),
        ("reshard", "ours", "sharded", [*layout, "--shard-size", "0.03"]),
        ("to-bigcode", "sharded", "legacy", layout),
        ("from-bigcode", "legacy", "back", ["--tensor", "4", "--shard-size", "0.03"]),
        ("to-hf", "legacy", "again", ["--shard-size", "0.03"]),
    ]
    tasks = {}
    for step, source, target, options in steps:
        if target in ("ours", "sharded", "legacy"):
            make_task(step, folder / source, folder / target, options).undisturbed()
        tasks[step] = make_task(step, folder / source, folder / "out" / target, options)
    return tasks


def main() -> None:
    """Interrupt conversions of a random model in all directions."""
    args = kill_driver.arguments_of(__doc__, kills=20).parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="kills-") as name:
        make_model(Path(name) / "hf", MODEL, args.seed)
        hits = kill_driver.campaign(make_tasks(Path(name)), args.kills, args.seed, peak=0.9)
    found = {"kills": hits.total(), "commands": dict(hits), "seed": args.seed}
    found["seconds"] = round(time.perf_counter() - begin)
    keep(args.output, {**found, "machine": machine()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
