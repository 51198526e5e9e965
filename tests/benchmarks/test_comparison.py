"""Runs and exports that differ in one place are told apart."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.support.comparison import export_differences, run_differences
from tests.training.runs import STEPS, TestRun, flip, small_corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    whole = TestRun(folder, small_corpus(folder))
    whole.train(1)
    return whole.path


def test_a_copy_is_equal(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    assert run_differences(run, tmp_path / "copy", STEPS) == ""


def test_one_bit_of_a_tensor_is_found(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    path = sorted((copy / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors"))[0]
    flip(path, path.stat().st_size - 1)
    assert run_differences(run, copy, STEPS).startswith("1 tensors, the first ")


def test_a_loss_and_a_missing_step_are_found(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"loss": ', '"loss": 1')
    (copy / "metrics.jsonl").write_text("".join(lines[:-1]))
    found = run_differences(run, copy, STEPS)
    assert "step 3: loss" in found
    assert f"step {STEPS} has no record" in found


def test_files_that_may_differ_are_named_apart(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for file in ("README.md", "config.json", "same"):
            (tmp_path / name / file).write_text(file if file == "same" else name)
    assert export_differences(tmp_path / "one", tmp_path / "other") == ("config.json", "README.md")


def test_a_manifest_may_differ_in_its_provenance_alone(tmp_path: Path) -> None:
    for name, digest in (("one", "x"), ("other", "y"), ("third", "z")):
        (tmp_path / name).mkdir()
        tree = {"step": 4 if name == "third" else 3, "digest": digest, "provenance": {"name": name}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(tree))
    assert export_differences(tmp_path / "one", tmp_path / "other") == ("", "manifest.json")
    assert export_differences(tmp_path / "one", tmp_path / "third") == ("manifest.json", "")
