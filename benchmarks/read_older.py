# bench: cpu
"""Check that data sets, runs and exports of an earlier commit are read bit for bit by the present code.

    python -m benchmarks.read_older --commit a499363
    python -m benchmarks.read_older --commit a499363 --only "tensor 2, bf16" --keep /tmp/older

With the earlier code and public commands: data sets of three formats; runs of several layouts and precisions, with fill
in the middle and windows, with LoRA, with saved weights, each stopped half-way; exports to Hugging Face, BigCode and
other layouts. Then the present code reads the data sets, resumes a copy of every run and is compared with the earlier
code's own continuation (every step's record and every tensor of the last checkpoint), converts the same runs (the same
bytes), verifies, inspects and reports them. The reverse: the earlier code resumes what the present code began. Exit
code 1: something differs that may not.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.support.comparison import Verdict, export_differences, records, run_differences, tensors
from benchmarks.support.kill_driver import digests
from benchmarks.support.trees import PROJECT, Tree, extract

STEPS, HALF = 8, 4
FIM = {"fim_rate": 0.5, "fim_spm_rate": 0.5}
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "tensor 1, fp32": (1, {"train": {"precision": "fp32"}, "checkpoint": {"weights_every": 4}}),
    "tensor 2, fp32": (2, {"train": {"precision": "fp32"}, "parallel": {"tensor": 2}}),
    "tensor 1, bf16": (1, {}),
    "tensor 2, bf16": (2, {"parallel": {"tensor": 2, "sequence": True}}),
    "pipeline 2, windows": (2, {"parallel": {"pipeline": 2}, "data": {"overlong": "window"}}),
    "fill in the middle": (
        1,
        {"data": {"train": "t: 1 0:1 {data}/text", **FIM}, "train": {"loss_on": "all"}},
    ),
    "LoRA": (1, {"checkpoint": {"init_from": "{base}"}, "lora": {"rank": 4, "dropout": 0.1}}),
}
_FIRST = "tensor 1, fp32"  # the run that is exported, and on which LoRA trains
# The earlier code's modules may lie elsewhere.
_DUMP = """
import hashlib, sys
try:
    from megatron_octo.data.dataset.indexed import open_corpus
except ImportError:
    from megatron_octo.data.indexed import open_corpus
corpus, state = open_corpus(sys.argv[1]), hashlib.sha256()
for number in range(len(corpus)):
    tokens, mask = corpus.document(number)
    state.update(tokens.astype("<i8").tobytes() + mask.tobytes())
print(len(corpus), corpus.tokens, state.hexdigest())
"""


Conversion = tuple[str, Path, Path, list[str]]  # step, source, target, options


class Workshop:
    """A folder in which both versions work on the same inputs."""

    def __init__(self, folder: Path, old: Tree, new: Tree) -> None:
        self.folder, self.old, self.new = folder, old, new
        self.data, self.tokenizer = folder / "data", folder / "tokenizer.json"
        self.export, self.base = folder / "export-old", folder / "from-hf-old"

    def make_inputs(self) -> None:
        """Write rows of pairs, commits and texts, some longer than a row of training, and a tokenizer."""
        generator, words = random.Random(0), Path(__file__).read_text().split()

        def text(most: int) -> str:
            return " ".join(generator.choices(words, k=generator.randint(2, most)))

        rows = {
            "finetune": [{"inputs": text(60) + "\n", "outputs": text(120)} for _ in range(60)],
            "commits": [
                {"old_contents": text(60), "new_contents": text(60), "subject": text(6), "message": text(9)}
                | {"old_file": "a.py", "new_file": "a.py", "lang": "Python"}
                for _ in range(40)
            ],
            "text": [{"text": text(300)} for _ in range(60)],
        }
        for name, values in rows.items():
            lines = "".join(json.dumps(value) + "\n" for value in values)
            (self.folder / f"{name}.jsonl").write_text(lines)
        pairs, size = self.folder / "finetune.jsonl", ["--vocabulary", "600"]
        self.new.call("demo.train_tokenizer", pairs, self.tokenizer, *size)

    def preprocess(self, tree: Tree, name: str, prefix: Path) -> None:
        """Make a data set of one format."""
        place: list[str | Path] = ["--input", self.folder / f"{name}.jsonl", "--output-prefix", prefix]
        tree.call(
            "megatron_octo.preprocess",
            *place,
            "--tokenizer",
            self.tokenizer,
            "--format",
            name,
            "--workers",
            "1",
        )

    def recipe(self, name: str) -> Path:
        """Write the recipe of a run."""
        tree: dict[str, Any] = {
            "run_dir": "given",
            "model": {
                **{"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "ffn_hidden_size": 128},
                **{
                    "max_position_embeddings": 256,
                    "vocab_size": 600,
                    "hidden_dropout": 0.1,
                    "init_std": 0.05,
                },
            },
            "data": {
                "train": "t: 2 0:0.9 {data}/finetune, 1 0:1 {data}/commits",
                "valid": "v: 1 0.9:1 {data}/finetune",
                "tokenizer": str(self.tokenizer),
                "seq_length": 128,
            },
            "batch": {"global_size": 4, "micro_size": 2},
            "optimizer": {"lr": 1e-3},
            "schedule": {"warmup_steps": 2, "decay_steps": STEPS},
            "train": {"steps": STEPS},
            "eval": {"interval": 4, "steps": 1},
            "checkpoint": {"interval": 2, "keep": 9},
            "log": {"tensorboard": False},
            "system": {"device": "cpu", "preflight": "none"},
        }
        for section, values in RUNS[name][1].items():
            tree[section] = {**tree.get(section, {}), **values}
        path = self.folder / f"{name.replace(' ', '-').replace(',', '')}.yaml"
        text = yaml.safe_dump(tree).replace("{data}", str(self.data)).replace("{base}", str(self.base))
        path.write_text(text)
        return path

    def train(self, tree: Tree, name: str, run: Path, steps: int) -> str:
        """Start or resume a run until it has made so many steps."""
        world = ["--nproc", str(RUNS[name][0])]
        return tree.call("megatron_octo.train", self.recipe(name), *world, f"run_dir={run}", f"train.steps={steps}")


def check_data(shop: Workshop, verdict: Verdict) -> None:
    """Make data sets with the earlier code; read them with both, and make them again with the present code."""
    again = shop.folder / "data-again"
    dump = shop.folder / "dump.py"
    dump.write_text(_DUMP)
    for name in ("finetune", "commits", "text"):
        with verdict.part(f"data set {name}"):
            shop.preprocess(shop.old, name, shop.data / name)
            shop.preprocess(shop.new, name, again / name)
            words = [sys.executable, str(dump), str(shop.data / name)]
            old, new = shop.old.run(words), shop.new.run(words)
            same = old.returncode == new.returncode == 0 and old.stdout == new.stdout
            verdict.note(f"data set {name} is read", "" if same else f"{old} {new}", old.stdout.strip()[:40])
            files = [[Path(f"{folder / name}.{suffix}") for suffix in ("bin", "idx")] for folder in (shop.data, again)]
            equal = [*digests(files[0], shop.data).items()] == [*digests(files[1], again).items()]
            verdict.note(f"data set {name} is made again", "" if equal else "other bytes")
            shop.new.call("megatron_octo.inspect", shop.data / name)


def check_run(shop: Workshop, verdict: Verdict, name: str) -> None:
    """Stop a run of the earlier code half-way, and continue it with both."""
    base = shop.folder / "runs" / name.replace(" ", "-").replace(",", "")
    whole, resumed = base.with_name(base.name + "-old"), base.with_name(base.name + "-new")
    shop.train(shop.old, name, whole, HALF)
    shutil.copytree(whole, resumed)
    shop.train(shop.old, name, whole, STEPS)
    text = shop.train(shop.new, name, resumed, STEPS)
    found = run_differences(whole, resumed, STEPS) or ("" if "resuming at step" in text else "it did not resume")
    verdict.note(f"run {name} resumes", found, f"{len(records(whole))} steps, {len(tensors(whole, STEPS))} tensors")
    for module, *words in (
        ("megatron_octo.inspect", whole),
        ("megatron_octo.submit", "status", whole),
        ("megatron_octo.submit", "list", whole.parent),
    ):
        shop.new.call(module, *words)
    verdict.note(f"run {name} is inspected and listed")


def check_exports(shop: Workshop, verdict: Verdict) -> None:
    """Convert the earlier code's run with both, and back."""
    run = shop.folder / "runs" / "tensor-1-fp32-old"
    bigcode, again, back = (shop.folder / name for name in ("bigcode-old", "reshard-old", "hf-old"))
    conversions: list[Conversion] = [
        ("to-hf", run, shop.export, []),
        ("to-bigcode", run, bigcode, ["--tensor", "2"]),
        ("reshard", run, again, ["--tensor", "2"]),
        ("from-hf", shop.export, shop.base, ["--tensor", "2", "--pipeline", "2"]),
        ("from-bigcode", bigcode, back, []),
        ("to-hf", run / "weights" / f"step-{HALF:08d}", shop.folder / "weights-old", []),
    ]
    compare_conversions(shop, verdict, conversions)
    with verdict.part("verify"):
        shop.new.call("megatron_octo.convert", "verify", run, shop.export)
        shop.new.call("megatron_octo.convert", "verify", bigcode, again)
        verdict.note("verify finds run, export, BigCode and other layout equal")


def check_adapters(shop: Workshop, verdict: Verdict) -> None:
    """Convert the earlier code's LoRA run with both: merged into its base, and the adapters alone."""
    run = shop.folder / "runs" / "LoRA-old"
    conversions = [
        ("to-hf", run, shop.folder / "merged-old", []),
        ("to-hf", run, shop.folder / "adapters-old", ["--adapter"]),
    ]
    compare_conversions(shop, verdict, conversions)


def compare_conversions(shop: Workshop, verdict: Verdict, conversions: list[Conversion]) -> None:
    """Run conversions with both versions and compare their files."""
    for step, source, target, options in conversions:
        name = " ".join([step, *(word for word in options if word == "--adapter"), "of", source.name])
        with verdict.part(name):
            other = target.with_name(target.name.replace("-old", "-new"))
            shop.old.call("megatron_octo.convert", step, source, target, *options)
            shop.new.call("megatron_octo.convert", step, source, other, *options)
            wrong, allowed = export_differences(target, other)
            verdict.note(name, wrong, f"the same bytes{f' except {allowed}' if allowed else ''}")


def check_reverse(shop: Workshop, verdict: Verdict, name: str) -> None:
    """Let the earlier code resume what the present code began."""
    run = shop.folder / "runs" / "reverse"
    shop.train(shop.new, name, run, HALF)
    shop.train(shop.old, name, run, STEPS)
    whole = shop.folder / "runs" / f"{name.replace(' ', '-').replace(',', '')}-old"
    verdict.note(f"reverse: the earlier code resumes {name}", run_differences(whole, run, STEPS))


def main() -> int:
    """Run all parts and print the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", required=True, help="the earlier version")
    parser.add_argument("--tree", type=Path, default=PROJECT, help="the present version (default: this one)")
    parser.add_argument("--only", action="append", choices=RUNS, help="runs (default: all)")
    parser.add_argument("--keep", type=Path, help="folder for all files, which stay (default: a temporary one)")
    args = parser.parse_args()
    verdict, start = Verdict(), time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        shop = Workshop(folder, extract(args.commit, folder / "older"), Tree(args.tree.resolve()))
        shop.make_inputs()
        check_data(shop, verdict)
        names = args.only or list(RUNS)
        # The export is made of the first run, and LoRA trains on the export.
        for name in sorted({_FIRST, *names}, key=list(RUNS).index):
            with verdict.part(f"run {name}"):
                check_run(shop, verdict, name)
            if name == _FIRST:
                check_exports(shop, verdict)
            if name == "LoRA":
                check_adapters(shop, verdict)
        for name in [name for name in ("tensor 2, bf16", _FIRST) if name in names][:1]:
            with verdict.part(f"reverse of {name}"):
                check_reverse(shop, verdict, name)
    print(f"{len(verdict.failed)} comparisons failed, {time.perf_counter() - start:.0f} s")
    print("".join(f"  {name}\n" for name in verdict.failed), end="")
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
