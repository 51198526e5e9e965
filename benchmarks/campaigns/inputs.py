"""Small inputs that campaigns share: rows, a tokenizer, a data set, a recipe, a finished run."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

from benchmarks.preprocess_kills import make_tokenizer
from benchmarks.support import forks

STEPS = 12
SMALL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "ffn_hidden_size": 64,
    "vocab_size": 500,
}


def make_rows(count: int = 200, seed: int = 0) -> list[dict[str, str]]:
    """Return pairs of words."""
    generator, words = random.Random(seed), Path(__file__).read_text().split()

    def text(most: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(1, most)))

    return [{"inputs": f"{number} {text(12)}", "outputs": text(24)} for number in range(count)]


def make_data(folder: Path) -> tuple[Path, Path]:
    """Write a tokenizer and a data set of pairs; returns their paths."""
    tokenizer, rows, prefix = (
        make_tokenizer(folder / "tokenizer.json"),
        folder / "rows.jsonl",
        folder / "data",
    )
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))
    words: list[str | Path] = [
        "--input",
        rows,
        "--output-prefix",
        prefix,
        "--tokenizer",
        tokenizer,
        "--workers",
        "1",
    ]
    done = forks.command("megatron_octo.preprocess", words, folder / "preprocess.log")
    assert done.code == 0, done.text
    return tokenizer, prefix


def make_recipe(folder: Path, run: Path, **sections: Any) -> Path:
    """Write the recipe of a tiny model on :func:`make_data`."""
    tree: dict[str, Any] = {
        "run_dir": str(run),
        "model": {**SMALL, "max_position_embeddings": 128, "hidden_dropout": 0.1},
        "data": {
            "train": f"t: 1.0 0:0.9 {folder}/data",
            "valid": f"v: 1.0 0.9:1 {folder}/data",
            "tokenizer": f"{folder}/tokenizer.json",
            "seq_length": 128,
        },
        "batch": {"global_size": 4, "micro_size": 2},
        "optimizer": {"lr": 1e-3},
        "schedule": {"warmup_steps": 2, "decay_steps": 2 * STEPS},
        "train": {"steps": STEPS, "precision": "fp32"},
        "eval": {"interval": 6, "steps": 1},
        "checkpoint": {"interval": 4, "keep": 3, "weights_every": 8},
        "log": {"tensorboard": False},
        "system": {"device": "cpu", "preflight": "none", "timeout_minutes": 0.5},
    }
    for name, section in sections.items():
        tree[name] = {**tree[name], **section} if isinstance(section, dict) else section
    path = folder / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def make_run(folder: Path, name: str, **sections: Any) -> Path:
    """Train to the end; returns the run's directory."""
    run = folder / name
    done = forks.train([make_recipe(folder, run, **sections)], folder / f"{name}.log")
    assert done.code == 0, done.text
    return run
