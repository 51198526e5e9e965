"""Runs on the test cluster: their files, the commands on them, and whether two of them are bit-equal."""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.places import PROJECT
from tests.slurm.conftest import wait_for

STEPS = 120
WORDS = [
    "def",
    "class",
    "return",
    "value",
    "error",
    "if",
    "else",
    "for",
    "in",
    "print",
    "self",
    "list",
    "true",
    "none",
]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def octo(*words: str | Path, folder: Path, code: int = 0) -> str:
    """One of the project's commands; returns what it prints, errors too."""
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment(), text=True, capture_output=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def make_desk(folder: Path) -> Path:
    """A folder to submit from: rows of text, problems, a tokenizer, a recipe, and a profile of the test cluster."""
    from demo.make_problems import main as make_problems
    from tests.data.conftest import train_tokenizer

    random.seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "pairs.jsonl", "w") as file:
        for _ in range(120):
            pair = {key: " ".join(random.choices(WORDS, k=random.randint(3, 40))) for key in ("inputs", "outputs")}
            file.write(json.dumps(pair) + "\n")
    make_problems(folder / "problems")
    train_tokenizer(folder / "tokenizer.json", ["<|endoftext|>"])
    vocabulary = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 64
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe(vocabulary)))
    (folder / "clusters").mkdir()
    write_profile(folder, "test")
    return folder


def make_data(desk: Path) -> None:
    words = ("--input", "pairs.jsonl", "--tokenizer", "tokenizer.json", "--output-prefix", "data/pairs")
    octo("megatron_octo.preprocess", *words, "--workers", "1", folder=desk)


def slow(attempt: int, seconds: float) -> str:
    """A rank that sleeps in every step: there is something to disturb, and no core is busy."""
    return f"rank=0,step=1,kind=slow,seconds={seconds},attempt={attempt}"


def recipe(vocabulary: int) -> dict[str, Any]:
    return {
        "run_dir": "runs/a",
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "ffn_hidden_size": 128,
            "max_position_embeddings": 64,
            "vocab_size": vocabulary,
            "hidden_dropout": 0.1,
            "init_std": 0.1,
        },
        "data": {"train": "train: 1.0 0:0.9 data/pairs", "tokenizer": "tokenizer.json", "seq_length": 64},
        "batch": {"global_size": 8, "micro_size": 2},
        "optimizer": {"lr": 1e-3, "min_lr": 1e-4},
        "train": {"steps": STEPS, "precision": "fp32"},
        "checkpoint": {"interval": 10},
        "log": {"tensorboard": False, "interval": 20},
        "system": {"device": "cpu"},
    }


def write_profile(folder: Path, name: str, **keys: Any) -> None:
    profile = {
        "nodes": 2,
        "gpus_per_node": 1,
        "cpus_per_task": 1,
        "memory": "4G",
        "exclusive": False,
        "time": "30:00",
        **keys,
    }
    (folder / "clusters" / f"{name}.yaml").write_text(yaml.safe_dump(profile))


class SlurmRun:
    """A run directory on the desk and what the commands say of it."""

    def __init__(self, desk: Path, name: str):
        self.desk, self.name, self.path, self.job = desk, f"runs/{name}", desk / "runs" / name, ""

    def submit(self, *words: str) -> dict[str, str]:
        """Job ids by stage."""
        words = ("recipe.yaml", f"run_dir={self.name}", *words)
        said = octo("megatron_octo.submit", *words, folder=self.desk).splitlines()
        jobs = dict(line.split(": job ") for line in said if ": job " in line)
        self.job = jobs["train"]
        return jobs

    def status(self) -> dict[str, Any]:
        return dict(json.loads(octo("megatron_octo.submit", "status", self.name, "--json", folder=self.desk)))

    def wait_for_attempt(self, attempt: int) -> None:
        path = self.path / "attempts" / f"{attempt:03d}.json"
        wait_for(f"attempt {attempt} of {self.name}", path.exists, 240)

    def saved_by(self, attempt: int) -> int:
        """Step from which the next attempt went on."""
        return min(record["step"] for record in self.metrics() if record["attempt"] == attempt + 1) - 1

    def wait_for_step(self, step: int, attempt: int) -> int:
        """Until this attempt has done a step of at least this number; returns its last one."""

        def look() -> int | None:
            done = [record["step"] for record in self.metrics() if record["attempt"] == attempt]
            return done[-1] if done and done[-1] >= step else None

        return wait_for(f"step {step} of attempt {attempt} of {self.name}", look, 240) or 0

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def curve(self) -> list[tuple[Any, ...]]:
        """Step, loss, gradient norm and place in the data; a step that was computed again counts once."""
        steps = {record["step"]: record for record in self.metrics()}
        return [
            tuple(steps[step][key] for key in ("step", "loss", "grad_norm", "epoch", "row")) for step in sorted(steps)
        ]

    def weights(self) -> dict[str, str]:
        """Digest of every tensor file of the last checkpoint: weights and optimizer."""
        folder = self.path / "checkpoints" / f"step-{STEPS:08d}"
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}

    def over(self) -> bool:
        """Whether the accounting has seen the end of every stage."""
        return all(
            stage["state"] not in ("PENDING", "RUNNING", "COMPLETING", "UNKNOWN") for stage in self.status()["stages"]
        )

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.path / "submit" / "logs").glob("*.log")))

    def attempts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted((self.path / "attempts").glob("*.json"))]


def assert_bit_equal(run: SlurmRun, undisturbed: SlurmRun) -> None:
    assert [row[0] for row in run.curve()] == list(range(1, STEPS + 1))
    assert run.curve() == undisturbed.curve()
    assert run.weights() == undisturbed.weights() and run.weights()
