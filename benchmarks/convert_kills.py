# bench: cpu
"""convert under SIGKILL: killed at random moments and started again, does it write the same bytes?

    python -m benchmarks.convert_kills                     # 20 kills, seed 0
    python -m benchmarks.convert_kills --kills 100 --seed 7

Every command (from-hf, reshard, to-bigcode, from-bigcode, to-hf) is killed at moments drawn from the whole length of an
undisturbed run, start-up included; then the same command has to finish, and to give the files of the undisturbed run.
Every second round kills twice in a row. Until then nothing stands at the final name.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.convert import make_model
from benchmarks.kills import killed
from benchmarks.machine import keep, machine
from megatron_octo.config.model import ModelConfig

MODEL = ModelConfig(
    num_layers=8,
    hidden_size=1024,
    num_attention_heads=16,
    ffn_hidden_size=4096,
    max_position_embeddings=2048,
    vocab_size=49152,
)


def digests(directory: Path) -> dict[str, str]:
    """Of every file, by its path in the directory."""
    return {
        str(path.relative_to(directory)): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def trial(command: Sequence[str], output: Path, moments: Sequence[float], wanted: dict[str, str]) -> str:
    """Kill at each moment in turn, then let it finish; returns a line about it.

    Raises:
        AssertionError: the files differ, or something stood at the final name too early, or is left behind.
    """
    shutil.rmtree(output, ignore_errors=True)
    partial = output.with_name(f".{output.name}.partial")
    hits, kept = 0, 0
    for moment in moments:
        hit = killed(command, moment)
        hits += hit
        if not hit:
            break  # it was done before
        assert not output.exists() or digests(output) == wanted, "half an output stands at the final name"
        if (journal := partial / ".journal.json").is_file():
            kept = len(json.loads(journal.read_text())["files"])
        if output.exists():
            break
    if not output.exists():
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert digests(output) == wanted, f"other files after kills at {moments}"
    # Killed right after the result got its name, it leaves a journal, which the next command of that name removes.
    left = {path.name for path in partial.iterdir()} if partial.exists() else set()
    assert not left or (hits and left == {".journal.json"}), f"left behind: {left}"
    times = ", ".join(f"{moment:.2f} s" for moment in moments)
    return f"{hits} kills at {times}: same files, {kept} were kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="where (default: a temporary directory)")
    parser.add_argument("--output", type=Path, help="JSON lines are appended here")
    args = parser.parse_args()
    generator, count, rounds = random.Random(args.seed), 0, 0
    begin, by_command = time.perf_counter(), Counter[str]()
    with tempfile.TemporaryDirectory(dir=args.directory, prefix="kills-") as name:
        folder = Path(name)
        make_model(folder / "hf", MODEL, args.seed)
        layout = ["--tensor", "2", "--pipeline", "4"]
        steps = [
            ("from-hf", "hf", "ours", ["--shard-size", "0.03"]),
            ("reshard", "ours", "sharded", [*layout, "--shard-size", "0.03"]),
            ("to-bigcode", "sharded", "legacy", layout),
            ("from-bigcode", "legacy", "back", ["--tensor", "4", "--shard-size", "0.03"]),
            ("to-hf", "legacy", "again", ["--shard-size", "0.03"]),
        ]
        commands, lengths, wanted = {}, {}, {}
        for step, source, target, options in steps:
            paths = [str(folder / source), str(folder / target)]
            commands[step] = [sys.executable, "-m", "megatron_octo.convert", step, *paths, *options]
            start = time.perf_counter()
            subprocess.run(commands[step], check=True, capture_output=True)
            lengths[step], wanted[step] = time.perf_counter() - start, digests(folder / target)
            print(f"{step}: {lengths[step]:.2f} s undisturbed, {len(wanted[step])} files", flush=True)
        while count < args.kills:
            step, _, target, _ = steps[rounds % len(steps)]
            # Two thirds of the moments fall into the second half: the first one is mostly imports.
            moments = [
                lengths[step] * generator.triangular(0, 1, 0.9) for _ in range(1 + rounds // len(steps) % 2)
            ]
            # The inputs of the later steps are the undisturbed ones: outputs go elsewhere.
            command = [*commands[step]]
            command[command.index(str(folder / target))] = str(folder / "out")
            line = trial(command, folder / "out", moments, wanted[step])
            hits = int(line.split()[0])
            by_command[step] += hits
            count, rounds = count + hits, rounds + 1
            print(f"{count:3} {step:10} {line}", flush=True)
            shutil.rmtree(folder / "out")
    print(f"{count} kills, all with the files of the undisturbed run")
    found = {"kills": count, "rounds": rounds, "commands": dict(by_command), "seed": args.seed}
    found["seconds"] = round(time.perf_counter() - begin)
    keep(args.output, {**found, "machine": machine()})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
