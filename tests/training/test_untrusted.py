"""A payload planted in every file that training reads: it is refused by name, or ignored, and never executed."""

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.digest import digests
from megatron_octo.common.files import digest_file, digest_json
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.training.runs import TestRun, small_corpus


class Payload:
    """Unpickled, it makes a directory."""

    def __init__(self, marker: Path):
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.marker,)


def as_pickle(payload: Payload) -> bytes:
    return pickle.dumps(payload)


def as_torch(payload: Payload) -> bytes:
    file = io.BytesIO()
    torch.save({"x": torch.zeros(1), "payload": payload}, file)
    return file.getvalue()


def as_numpy(payload: Payload) -> bytes:
    file = io.BytesIO()
    array = np.empty(1, object)
    array[0] = payload
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


FORMS = (as_pickle, as_torch, as_numpy)


def redigest_checkpoint(path: Path) -> None:
    """What an attacker does after changing a tensor file: the manifest is made to fit."""
    manifest = layout.read_manifest(path.parent)
    manifest.files[path.name] = {"bytes": path.stat().st_size, "digest": digests([path])[path]}
    layout.write_manifest(path.parent, manifest)


def redigest_plan(path: Path) -> None:
    about = json.loads((path.parent / "plan.json").read_text())
    about.pop("digest")
    about["digests"][path.stem] = digest_file(path)
    (path.parent / "plan.json").write_text(json.dumps({**about, "digest": digest_json(about)}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TestRun:
    folder = tmp_path_factory.mktemp("whole")
    run = TestRun(folder, small_corpus(folder), checkpoint={"interval": 1, "keep": 9})
    run.train(1, "train.steps=2")
    to_hf(run.path, folder / "hf")
    return run


def plant(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if path.suffix == ".safetensors" and (path.parent / layout.MANIFEST).exists():
        redigest_checkpoint(path)
    elif path.suffix == ".npy":
        redigest_plan(path)


@pytest.mark.slow
def test_a_payload_is_never_executed(tmp_path: Path, whole: TestRun) -> None:
    marker = tmp_path / "executed"
    payload = Payload(marker)
    for form, load in zip(
        FORMS,
        (
            pickle.loads,
            lambda data: torch.load(io.BytesIO(data), weights_only=False),
            lambda data: np.load(io.BytesIO(data), allow_pickle=True),
        ),
        strict=True,
    ):
        load(form(payload))  # type: ignore[operator]
        marker.rmdir()  # it works: who unpickles it executes it

    step = "run/checkpoints/step-00000002"
    plan = next(
        path.parent.relative_to(whole.folder)
        for path in whole.path.glob("plans/*/plan.json")
        if json.loads(path.read_text())["key"]["epoch"] == 0
    )
    refused = {  # the run stops and names the file
        "small.idx": "small.idx",
        "small.bin": "small.bin",
        "small.json": "small.json",
        "run.yaml": "run.yaml",
    }
    passed = {  # the run goes on: with the checkpoint before it, or without what it does not need
        f"{step}/manifest.json": "WARNING: step-00000002 is damaged",
        f"{step}/weights-tp00-pp00.safetensors": "WARNING: step-00000002 is damaged",
        f"{step}/optimizer-00000.safetensors": "WARNING: step-00000002 is damaged",
        f"{plan}/plan.json": "warning: damaged packing plan: plan.json",
        **{
            f"{plan}/{name}.npy": f"warning: damaged packing plan: {name}.npy"
            for name in ("order", "offsets", "cuts", "weights")
        },
        "run/checkpoints/latest": "resuming at step 2 ",
        "run/state.json": "resuming at step 2 ",
        "run/recipe.yaml": "resuming at step 2 ",
        "run/attempts/001.json": "resuming at step 2 ",
    }
    for number, (name, words) in enumerate([*refused.items(), *passed.items()]):
        folder = tmp_path / f"copy-{number}"
        shutil.copytree(whole.folder, folder)
        run = TestRun(folder, folder / "small", checkpoint={"interval": 1, "keep": 9})
        plant(folder / name, FORMS[number % len(FORMS)](payload))
        overrides = ["train.steps=3", "data.plan_cache=" + str(folder / "run/plans")]
        text = run.fails(1, *overrides) if name in refused else run.train(1, *overrides)
        assert words in text, name
        assert not marker.exists(), name
        shutil.rmtree(folder)

    # Weights to start from, in another format.
    for number, name in enumerate(("model.safetensors", "config.json", "conversion.json", "tokenizer.json")):
        folder = tmp_path / f"hf-{number}"
        shutil.copytree(whole.folder / "hf", folder, dirs_exist_ok=True)
        plant(folder / name, FORMS[number % len(FORMS)](payload))
        run = TestRun(tmp_path, whole.folder / "small", f"from-{number}", checkpoint={"interval": 0})
        if name in ("model.safetensors", "config.json", "conversion.json"):
            assert name in run.fails(1, f"checkpoint.init_from={folder}")
        else:
            run.train(1, "train.steps=1", f"checkpoint.init_from={folder}")
        assert not marker.exists(), name


@pytest.mark.slow
def test_any_damaged_file_costs_one_checkpoint(tmp_path: Path, whole: TestRun) -> None:
    """A flipped byte in any file of the newest checkpoint of two ranks: it is named, and the one before it serves."""
    source = TestRun(
        tmp_path / "two",
        whole.folder / "small",
        checkpoint={"interval": 1, "keep": 9},
        parallel={"tensor": 2},
    )
    source.train(2, "train.steps=3")
    files = sorted(path.name for path in source.step(2).iterdir())
    assert len(files) == 5
    for number, name in enumerate(files):
        run = TestRun(
            tmp_path / f"copy-{number}",
            whole.folder / "small",
            checkpoint={"interval": 1, "keep": 9},
            parallel={"tensor": 2},
        )
        shutil.copytree(source.path, run.path)
        path = run.step(3) / name
        data = bytearray(path.read_bytes())
        data[len(data) * (number + 1) // 7] ^= 1 << number
        path.write_bytes(data)
        text = run.train(2, "train.steps=3")
        warning = next(line for line in text.splitlines() if line.startswith("WARNING: step-00000003"))
        assert name in warning
        assert "resuming at step 2 " in text
        assert run.content(3) == source.content(3)
