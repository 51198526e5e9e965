"""Weights to start from: a run's, an exported model's and a legacy checkpoint's give the same first step."""

import json
import shutil
from pathlib import Path

import pytest

from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_hf import to_hf
from tests.training.runs import TestRun, small_corpus

NEVER = {"interval": 0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TestRun:
    folder = tmp_path_factory.mktemp("trained")
    run = TestRun(folder, small_corpus(folder))
    run.train(1, "train.steps=3")
    return run


def first_step(run: TestRun, world: int, source: Path, *overrides: str) -> tuple[float, float]:
    """Loss and gradient norm of the first step from some weights; nothing is left of the run."""
    text = run.train(world, "train.steps=1", f"checkpoint.init_from={source}", *overrides)
    assert f"starting from the weights of {source}" in text
    _, loss, norm, *_ = run.curve()[0]
    shutil.rmtree(run.path)
    return loss, norm


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "layout"),
    [(1, []), (2, ["parallel.tensor=2", "model.vocab_multiple=512"]), (2, ["parallel.pipeline=2"])],
    ids=["one", "tp2-padded-more", "pp2"],
)
def test_other_formats_give_the_same_start(tmp_path: Path, trained: TestRun, world: int, layout: list[str]) -> None:
    corpus = trained.folder / "small"
    run = TestRun(tmp_path, corpus, checkpoint=NEVER)
    expected = first_step(run, 1, trained.step(3))
    assert expected[0] < trained.curve()[0][1]  # of a model that has learned something
    to_hf(trained.path, tmp_path / "hf")
    to_bigcode(open_weights(trained.path), tmp_path / "legacy", tensor=2)
    for source in (tmp_path / "hf", tmp_path / "legacy"):
        assert first_step(run, world, source, *layout) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_what_does_not_fit_is_named(tmp_path: Path, trained: TestRun) -> None:
    run = TestRun(tmp_path, trained.folder / "small", checkpoint=NEVER)
    hf = tmp_path / "hf"
    to_hf(trained.path, hf)
    (hf / "conversion.json").unlink()  # it holds digests, which would be compared first

    def fails(*overrides: str) -> str:
        return run.fails(1, f"checkpoint.init_from={hf}", *overrides)

    assert "hidden_size 32 (recipe: 64)" in fails("model.hidden_size=64", "model.ffn_hidden_size=128")
    assert "adapters need a base whose digests tell" in fails("lora={}")
    config = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert "architecture 'llama'" in fails()
    (hf / "config.json").write_text(json.dumps(config))
    (hf / "model.safetensors").write_bytes((hf / "model.safetensors").read_bytes()[:-8])
    assert "model.safetensors" in fails()
    shutil.rmtree(hf)
    hf.mkdir()
    assert "no weights here" in fails()
