"""Whole runs on forked ranks, and what they leave on disk."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from megatron_octo.checkpoint import directory as layout
from megatron_octo.runfiles.samples import RECORD, SAMPLES
from megatron_octo.runfiles.steps import read_metrics
from tests.conftest import recipe_tree, write_corpus
from tests.distributed import exit_codes, start_train, train

STEPS = 6
EVERY_STEP = {"checkpoint": {"interval": 1, "keep": 9}}


def small_corpus(folder: Path) -> Path:
    """About 20 rows: six steps of eight rows go over two borders of an epoch."""
    return write_corpus(folder / "small", documents=25, seed=1)


class TestRun:
    """A recipe on disk, its run directory, and starts of the real command on it."""

    __test__ = False

    def __init__(self, folder: Path, corpus: Path, name: str = "run", **sections: Any):
        self.folder, self.path, self.world = folder, folder / name, 1
        tree = recipe_tree(corpus, self.path, **{"schedule": {"decay_steps": STEPS}, **sections})
        tree["data"] = {**tree["data"], "train": sections.get("train_data", f"train: 1.0 0:1 {corpus}")}
        tree.pop("train_data", None)
        self.recipe = folder / f"{name}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(tree))
        self.log = folder / f"{name}.log"

    def start(self, world: int, *overrides: str) -> Any:
        return start_train(world, [str(self.recipe), *overrides], self.log)

    def train(self, world: int, *overrides: str) -> str:
        """One start that has to end well; returns everything printed so far."""
        codes, text = train(world, [str(self.recipe), *overrides], self.log)
        assert codes == [0] * world, text
        return text

    def fails(self, world: int, *overrides: str) -> str:
        """One start that has to end as a user's mistake; returns what this start printed."""
        before = len(self.log.read_text()) if self.log.exists() else 0
        codes, text = train(world, [str(self.recipe), *overrides], self.log)
        assert codes == [2] * world, text
        assert "Traceback" not in text[before:]
        return text[before:]

    @property
    def checkpoints(self) -> Path:
        return self.path / layout.CHECKPOINTS

    def step(self, number: int) -> Path:
        return self.checkpoints / layout.step_name(number)

    def names(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.iterdir())

    def curve(self) -> list[tuple[int, float, float, int, int]]:
        """Step, loss, gradient norm and the place in the data, of every step."""
        return [
            (record["step"], record["loss"], record["grad_norm"], record["epoch"], record["row"])
            for record in read_metrics(self.path)
        ]

    def metrics(self) -> list[dict[str, Any]]:
        """Records of the steps that count."""
        return read_metrics(self.path)

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.path / "state.json").read_text()))

    def content(self, number: int) -> dict[str, Any]:
        """Digest of every tensor file of a checkpoint, and what else training resumes from."""
        path = self.step(number)
        manifest = layout.read_manifest(path)
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.glob("*.safetensors")}
        assert sorted(files) == sorted(manifest.files)
        assert layout.check_files(path, manifest) == []
        return {"files": files, "state": manifest.state, "tensors": manifest.tensors, "step": manifest.step}


def copy_of(whole: TestRun, folder: Path, corpus: Path, upto: int = STEPS, **sections: Any) -> TestRun:
    """The undisturbed run as it stood after some step."""
    run = TestRun(folder, corpus, **{**EVERY_STEP, **sections})
    for step in range(1, upto + 1):
        shutil.copytree(whole.step(step), run.step(step))
    layout.set_latest(run.checkpoints, layout.step_name(upto))
    lines = (whole.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(lines[:upto]))
    samples = (whole.path / SAMPLES).read_bytes()
    (run.path / SAMPLES).write_bytes(samples[: upto * RECORD.itemsize])
    return run


def flip(path: Path, place: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


__all__ = ["EVERY_STEP", "STEPS", "TestRun", "copy_of", "exit_codes", "flip", "small_corpus"]
