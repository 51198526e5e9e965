# bench: cpu gpu
r"""Measure the speed of the present code beside another version of it, in one run on this machine.

    python -m benchmarks.against_commit --commit a499363
    python -m benchmarks.against_commit --commit a499363 --only packing convert --rounds 5
    python -m benchmarks.against_commit --tree OTHER --only throughput --gpu --recipe recipes/santacoderpack.yaml \
        --rounds 2 model.hidden_dropout=0.0 model.attention_dropout=0.0 batch.micro_size=4 batch.global_size=8

Each benchmark is the version's own command, run in turns (other, present, present, other, ...), so that other load on
the machine meets both. Reported: the best figure of each over the rounds, and present / other, over 1 where the present
code is faster. ``--tree`` takes a directory instead of a commit, for machines without the repository: ``git archive
COMMIT | tar -x -C OTHER``. Exit code 1: a ratio is below ``--bar``.
"""

import argparse
import ast
import gzip
import json
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.support.machine import keep, machine
from benchmarks.support.trees import PROJECT, Tree, extract
from demo.train_tokenizer import main as train_tokenizer

Figures = dict[str, float]  # rates: more is better


class Bench:
    """Inputs that all rounds share, and the benchmarks on them."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        self.folder, self.args = folder, args

    def _output(self, tree: Tree, module: str, *words: str | Path) -> str:
        done = tree.run(tree.command(module, *words), gpu=self.args.gpu)
        if done.returncode:
            raise SystemExit(f"{tree.path}: {module} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    def throughput(self, tree: Tree) -> Figures:
        """Train a recipe on random documents: tokens/s per rank."""
        words = ["--nproc", str(self.args.nproc), "--steps", str(self.args.steps), *self.args.overrides]
        line = self._output(tree, "benchmarks.throughput", self.args.recipe, *words).strip().splitlines()[-1]
        found = json.loads(line)
        print(f"  {tree.path.name}: {line}", flush=True)
        return {"throughput, tokens/s": found["tokens_per_s_per_gpu"]}

    def preprocess(self, tree: Tree) -> Figures:
        """Tokenise sources of Python's standard library: tokens per second of CPU, start-up included."""
        commits, tokenizer = self.folder / "commits.jsonl.gz", self.folder / "tokenizer.json"
        if not tokenizer.exists():
            self._write_inputs(commits, tokenizer)
        words: list[str | Path] = ["--commits", commits, "--tokenizer", tokenizer]
        words += ["--megabytes", str(self.args.megabytes)]
        found = json.loads(self._output(tree, "benchmarks.preprocess", *words))["ours"]
        return {"preprocess, tokens/s of CPU": found["tokens_per_cpu_s"]}

    def _write_inputs(self, commits: Path, tokenizer: Path) -> None:
        pairs = self.folder / "pairs.jsonl"
        with gzip.open(commits, "wt") as rows, pairs.open("w") as few:
            for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
                text = path.read_text(errors="replace")
                rows.write(json.dumps({"old_contents": text, "new_contents": ast.unparse(ast.parse(text))}) + "\n")
                few.write(json.dumps({"inputs": text[:2000], "outputs": text[2000:4000]}) + "\n")
        train_tokenizer([str(pairs), str(tokenizer), "--vocabulary", "8000"])

    def packing(self, tree: Tree) -> Figures:
        """Plan an epoch: documents per second."""
        words = ["--documents", str(self.args.documents), "--seq-length", "8192"]
        found = json.loads(self._output(tree, "benchmarks.packing", *words).strip().splitlines()[-1])
        return {"packing, documents/s": found["documents"] / found["seconds"]}

    def convert(self, tree: Tree) -> Figures:
        """Convert a random model: bytes per second of each step, imports and flushing included."""
        output = self.folder / "convert.jsonl"
        layers = self.args.layers
        shape = {"layers": layers, "hidden": 2048, "heads": 16, "positions": 2048, "pipeline": min(4, layers)}
        words = [word for key, value in shape.items() for word in (f"--{key}", str(value))]
        place: list[str | Path] = ["--directory", self.folder, "--output", output]
        self._output(tree, "benchmarks.convert", *words, "--bigcode", *place)
        row = json.loads(output.read_text().splitlines()[-1])
        return {f"{step['step']}, GB/s": row["bytes"] / step["seconds"] / 1e9 for step in row["steps"]}


def measure(bench: Bench, names: list[str], other: Tree, rounds: int) -> dict[str, dict[str, float]]:
    """Run benchmarks in turns; returns the best figures of both versions and their ratio."""
    best: dict[str, dict[str, float]] = {}
    for name in names:
        method: Callable[[Tree], Figures] = getattr(bench, name)
        for number in range(rounds):
            turn = [("other", other), ("present", Tree(PROJECT))]
            for which, tree in turn if number % 2 == 0 else turn[::-1]:
                for key, value in method(tree).items():
                    figures = best.setdefault(key, {"other": 0.0, "present": 0.0})
                    figures[which] = max(figures[which], value)
        for key, figures in best.items():
            if "ratio" not in figures:
                figures["ratio"] = figures["present"] / figures["other"]
                row = f"{figures['other']:14,.4g} {figures['present']:14,.4g} {figures['ratio']:8.3f}"
                print(f"{key:30} {row}", flush=True)
    return best


def main() -> int:
    """Print a line per figure."""
    names = [name for name in vars(Bench) if not name.startswith("_")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument("--commit", help="the other version")
    other.add_argument("--tree", type=Path, help="its directory")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="for throughput")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="leave GPUs visible (default: hide them)")
    parser.add_argument("--recipe", default="recipes/demo.yaml", help="for throughput (default: %(default)s)")
    parser.add_argument("--nproc", type=int, help="processes (default: 2 for the demo's recipe, else 1)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--megabytes", type=float, default=60, help="for preprocess (default: %(default)s)")
    parser.add_argument("--documents", type=float, default=3e6, help="for packing (default: %(default)g)")
    parser.add_argument("--layers", type=int, default=4, help="for convert (default: %(default)s)")
    parser.add_argument("--bar", type=float, default=0.0, help="lowest ratio allowed (default: none)")
    parser.add_argument("--output", type=Path, help="file to which JSON lines are appended")
    args = parser.parse_intermixed_args()
    args.nproc = args.nproc or (2 if args.recipe == parser.get_default("recipe") else 1)
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(args.tree.resolve()) if args.tree else extract(args.commit, Path(folder) / "other")
        print(f"{'':30} {'other':>14} {'present':>14} {'ratio':>8}", flush=True)
        found = measure(Bench(Path(folder), args), args.only, tree, args.rounds)
    keep(args.output, {"other": args.commit or "a directory", "figures": found, "machine": machine()})
    low = [name for name, figures in found.items() if figures["ratio"] < args.bar]
    print(f"below {args.bar}: {', '.join(low)}" if low else "")
    return 1 if low else 0


if __name__ == "__main__":
    raise SystemExit(main())
