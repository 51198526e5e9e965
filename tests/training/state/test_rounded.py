"""A bf16 run's checkpoint holds every weight once, in fp32: whoever wants the bf16 one gets it rounded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_octo.checkpoint import directory as layout
from megatron_octo.checkpoint.directory import Fragment, TensorEntry
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.recipe.loading import load_recipe
from megatron_octo.sizing.checkpoint_size import checkpoint_bytes
from tests.training.runs import TestRun, flip, small_corpus

pytestmark = pytest.mark.slow

FILES = {f"{kind}-0000{rank}.safetensors" for kind in ("main", "optimizer") for rank in (0, 1)}
KINDS = ("weights", "main", "exp_avg", "exp_avg_sq")
BF16 = {"train": {"precision": "bf16"}, "checkpoint": {"interval": 2, "keep": 9}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> TestRun:
    """Four steps on two data-parallel ranks, whose shares cut tensors anywhere. Nobody changes it."""
    found = TestRun(tmp_path_factory.mktemp("run"), corpus, **BF16)
    found.train(2, "train.steps=4", "schedule.decay_steps=6")
    return found


def test_each_number_is_stored_once(run: TestRun) -> None:
    manifest, reader = layout.read_manifest(run.step(4)), CheckpointReader(run.step(4))
    assert manifest.weights_are_rounded
    assert set(manifest.files) == FILES
    recipe = load_recipe(str(run.recipe), [])
    size = sum(record["bytes"] for record in manifest.files.values())
    assert 0 < size - checkpoint_bytes(recipe.model, recipe.compute) < 100_000  # headers, random states
    source, changed = open_weights(run.step(4)), 0
    for name, entry in manifest.tensors["weights"].items():
        main, shape = reader.read(name, "main"), entry.shape
        flat = reader.read_flat(name, "weights", (0,) * len(shape), shape, 0, main.numel())
        for found in (reader.read(name), flat.view(shape), source.read(name)):
            assert found.dtype == torch.bfloat16 and torch.equal(found, main.bfloat16()), name
        changed += int((main != main.bfloat16()).sum())
    assert changed  # there is something to round


@pytest.mark.parametrize("dtype", [None, "bf16"])
@pytest.mark.parametrize("size", [1, 2])
def test_reshard_keeps_it_so(run: TestRun, tmp_path: Path, size: int, dtype: str | None) -> None:
    source = open_weights(run.step(4))
    rounding = write_checkpoint(source, tmp_path / "out", tensor=size, pipeline=size, dtype=dtype)
    assert rounding.dtype is None  # nothing was rounded on the way
    before, after = CheckpointReader(run.step(4)), CheckpointReader(tmp_path / "out")
    after.verify()
    assert after.manifest.weights_are_rounded
    assert {name.partition("-")[0] for name in after.manifest.files} == {"main", "optimizer"}
    for kind in KINDS:
        for name in before.names(kind):
            assert torch.equal(after.read(name, kind), before.read(name, kind)), (kind, name)


def test_what_is_converted_has_the_models_weights(run: TestRun, tmp_path: Path) -> None:
    """Not the finer ones: a converted model computes what the training one did."""
    reader = CheckpointReader(run.step(4))
    write_checkpoint(open_weights(run.step(4)), tmp_path / "bf16", optimizer=False)
    write_checkpoint(open_weights(run.step(4)), tmp_path / "fp32", dtype="fp32")
    to_hf(run.step(4), tmp_path / "hf")
    hf = open_weights(tmp_path / "hf")
    bf16, fp32 = CheckpointReader(tmp_path / "bf16"), CheckpointReader(tmp_path / "fp32")
    assert set(bf16.manifest.tensors) == {"weights"} and set(fp32.manifest.tensors) == set(KINDS)
    assert not fp32.manifest.weights_are_rounded
    for name in reader.names():
        assert torch.equal(bf16.read(name), reader.read(name)), name
        real = hf.read(name)
        assert real.dtype == torch.bfloat16 and torch.equal(real, reader.read(name)), name
        assert torch.equal(fp32.read(name), reader.read(name).float()), name
        assert torch.equal(fp32.read(name, "main"), reader.read(name, "main")), name


@pytest.mark.slow
def test_a_run_starts_from_the_rounded_weights(run: TestRun, corpus: Path, tmp_path: Path) -> None:
    write_checkpoint(open_weights(run.step(4)), tmp_path / "bare", optimizer=False)
    curves = []
    for name, source in (("whole", run.step(4)), ("weights", tmp_path / "bare")):
        other = TestRun(tmp_path, corpus, name, train={"precision": "bf16"}, checkpoint={"init_from": str(source)})
        other.train(2, "train.steps=2", "parallel.tensor=2")
        curves.append(other.curve())
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_damage_is_named(run: TestRun, corpus: Path, tmp_path: Path) -> None:
    """A resume takes the checkpoint before, a run that was to start from there does not."""
    damaged = TestRun(tmp_path, corpus, "damaged", **BF16)
    shutil.copytree(run.checkpoints, damaged.checkpoints)
    shutil.copy(run.path / "metrics.jsonl", damaged.path)
    flip(damaged.step(4) / "main-00001.safetensors", -1)
    other = TestRun(tmp_path, corpus, "other", **{**BF16, "checkpoint": {"init_from": str(damaged.step(4))}})
    assert "damaged checkpoint: main-00001.safetensors has changed" in other.fails(2)
    text = damaged.train(2, "train.steps=4", "schedule.decay_steps=6")
    assert "main-00001.safetensors has changed" in text and "resuming at step 2" in text
    assert damaged.content(4) == run.content(4)


def test_another_dtype_than_the_manifest_says(run: TestRun, tmp_path: Path) -> None:
    """fp32 may stand for bf16; nothing else may stand for another."""
    shutil.copytree(run.step(4), tmp_path / "c")
    manifest = layout.read_manifest(tmp_path / "c")
    name = "decoder.final_layernorm.weight"
    file = next(name for name in manifest.files if name.startswith("optimizer"))
    good = manifest.tensors["weights"][name]
    other = replace(good.fragments[0], file=file, key="random/torch")
    entry = TensorEntry(good.shape, "BF16", (other,))
    manifest.tensors["weights"][name] = entry
    layout.write_manifest(tmp_path / "c", manifest)
    for read in (CheckpointReader(tmp_path / "c").read, open_weights(tmp_path / "c").read):
        with pytest.raises(OctoError, match="stored in U8, its manifest says BF16"):
            read(name)


@pytest.mark.slow
def test_adapters_beside_a_bf16_run(run: TestRun, corpus: Path, tmp_path: Path) -> None:
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "target_modules": ["mlp.linear_fc2"]}
    adapters = TestRun(
        tmp_path,
        corpus,
        "lora",
        lora=lora,
        **{**BF16, "checkpoint": {"interval": 1, "init_from": str(run.step(4))}},
    )
    adapters.train(2, "train.steps=1")
    assert "resuming at step 1" in adapters.train(2, "train.steps=2", "parallel.tensor=2")
    merged, base = open_weights(adapters.path), CheckpointReader(run.step(4))
    changed = [name for name in base.names() if not torch.equal(merged.read(name).bfloat16(), base.read(name))]
    assert changed and all(name.endswith("linear_fc2.weight") for name in changed)


def as_format_1(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What versions before wrote: the weights in bf16, too, in a file of their own."""
    reader = CheckpointReader(checkpoint)
    manifest, file = reader.manifest, "weights-tp00-pp00.safetensors"
    weights = {name: reader.read(name).clone() for name in reader.names()}
    with SafetensorsWriter(
        checkpoint / file, {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    ) as writer:
        for name, tensor in weights.items():
            writer.write(name, tensor)
        manifest.files[file] = writer.close()
    entries = {
        name: TensorEntry(shape, "BF16", (Fragment(file, name, (0,) * len(shape), shape),))
        for name, shape in ((name, tuple(tensor.shape)) for name, tensor in weights.items())
    }
    with monkeypatch.context() as patch:
        patch.setattr(layout, "FORMAT", 1)
        layout.write_manifest(checkpoint, replace(manifest, tensors={**manifest.tensors, "weights": entries}))


@pytest.mark.slow
def test_checkpoints_of_earlier_versions_are_resumed(
    run: TestRun, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, old = (TestRun(tmp_path, corpus, name, **BF16) for name in ("straight", "old"))
    for each in (straight, old):
        shutil.copytree(run.step(4), each.step(4))
        layout.set_latest(each.checkpoints, layout.step_name(4))
    as_format_1(old.step(4), monkeypatch)
    assert json.loads((old.step(4) / layout.MANIFEST).read_text())["format"] == 1
    assert not layout.read_manifest(old.step(4)).weights_are_rounded
    write_checkpoint(open_weights(old.step(4)), tmp_path / "resharded", tensor=2)
    resharded = CheckpointReader(tmp_path / "resharded")
    for name in resharded.names():
        assert torch.equal(resharded.read(name), CheckpointReader(old.step(4)).read(name)), name
    for each in (straight, old):
        assert "resuming at step 4" in each.train(2)
    assert old.curve() == straight.curve()
    assert old.content(6) == straight.content(6)
    assert set(layout.read_manifest(old.step(6)).files) == FILES
