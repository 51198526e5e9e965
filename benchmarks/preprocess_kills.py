# bench: cpu
"""Kill preprocess at random moments, start it again, and compare the bytes with those of an undisturbed run.

    python -m benchmarks.preprocess_kills                     # 30 interruptions of the whole process group, seed 0
    python -m benchmarks.preprocess_kills --kills 100 --seed 7

Each start gets one signal (SIGKILL, SIGINT or SIGTERM) at a moment drawn from the length of an undisturbed run,
start-up and merge included; then the same command must finish with the bytes of the undisturbed run. Every second
round interrupts twice in a row.
"""

import json
import random
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from benchmarks.support import kill_driver
from benchmarks.support.machine import keep, machine

SUFFIXES = ("bin", "idx", "json")
OPTIONS = (["--workers", "2"], ["--workers", "2", "--dedup", "--shuffle", "1"])


def make_tokenizer(path: Path) -> Path:
    """Train a small byte-level BPE with the end of text as its only special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.save(str(path))
    return path


def make_rows(path: Path, megabytes: float, seed: int = 0) -> Path:
    """Write rows of this file's words in random order; some rows come twice."""
    generator = random.Random(seed)
    words = Path(__file__).read_text().split()
    with path.open("w") as file:
        line = ""
        while file.tell() < megabytes * 1e6:
            if not line or generator.random() < 0.9:
                line = json.dumps({"text": " ".join(generator.choices(words, k=generator.randint(1, 600)))})
            file.write(line + "\n")
    return path


def command(rows: Path, prefix: Path, tokenizer: Path, *options: str) -> list[str]:
    """Return the command line of preprocess, as a user starts it."""
    return [
        *(sys.executable, "-m", "megatron_octo.preprocess", "--format", "text", "--input", str(rows)),
        *("--output-prefix", str(prefix), "--tokenizer", str(tokenizer), *options),
    ]


def make_task(arguments: Sequence[str], prefix: Path) -> kill_driver.Task:
    """Return the task of writing the data set at ``prefix``."""

    def outputs() -> list[Path]:
        return [Path(f"{prefix}.{suffix}") for suffix in SUFFIXES]

    def leftovers() -> list[Path]:
        return sorted(set(prefix.parent.glob(f"*{prefix.name}.*")) - set(outputs()))

    def kept(errors: str) -> int:
        found = re.search(r"going on after (\d+)", errors)
        return int(found[1]) if found else 0

    return kill_driver.Task(arguments, prefix.parent, outputs, leftovers, kept)


def campaign(folder: Path, kills: int, seed: int, megabytes: float, options: Sequence[str]) -> int:
    """Interrupt until so many signals have hit a running process; returns their number."""
    rows, tokenizer = make_rows(folder / "rows.jsonl", megabytes), make_tokenizer(folder / "tokenizer.json")
    prefix = folder / "out" / "p"
    task = make_task(command(rows, prefix, tokenizer, *options), prefix)
    return kill_driver.campaign({" ".join(options): task}, kills, seed).total()


def main() -> None:
    """Interrupt preprocess with two sets of options."""
    parser = kill_driver.arguments_of(__doc__, kills=30)
    parser.add_argument("--megabytes", type=float, default=60)
    args = parser.parse_args()
    count = 0
    for options in OPTIONS:
        with tempfile.TemporaryDirectory(dir=args.directory) as folder:
            count += campaign(Path(folder), args.kills // len(OPTIONS), args.seed, args.megabytes, options)
    print(f"{count} interruptions, all with the bytes of the undisturbed run")
    keep(args.output, {"kills": count, "seed": args.seed, "megabytes": args.megabytes, "machine": machine()})


if __name__ == "__main__":
    main()
