"""The weights that a run starts from are found and compared without reading them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.checkpoint.directory import Manifest, TensorEntry, step_name, write_manifest
from megatron_octo.config.model import LoraConfig
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.readiness.checklist import check_recipe
from tests.conversion.models import write_hf

MakeRecipe = Callable[..., Recipe]


def write(path: Path, recipe: Recipe, **changes: Any) -> Path:
    """A checkpoint's manifest: all that is looked at."""
    entry = TensorEntry((1,), "F32", ())
    tensors = {kind: {"x": entry} for kind in ("weights", "exp_avg")}
    manifest = Manifest(recipe.model, 3, "fp32", None, {}, tensors, state={"corpora": "some"})
    path.mkdir(parents=True)
    write_manifest(path, dataclasses.replace(manifest, **changes))
    return path


def weights(recipe: Recipe) -> str:
    found = check_recipe(recipe)
    problem = found.problems.get("weights")
    return str(problem) if problem else next(line for line in found.good if line.startswith("weights: "))


def test_fresh(make_recipe: MakeRecipe) -> None:
    assert weights(make_recipe()) == "weights: fresh start, seed 1234"


def test_resume(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    write(tmp_path / "run/checkpoints" / step_name(3), recipe)
    assert weights(recipe) == "weights: resume from step-00000003"
    other = recipe.model.model_copy(update={"num_layers": 4})
    write(tmp_path / "run/checkpoints" / step_name(4), recipe, model=other)
    assert "the checkpoint is of another model: num_layers 4 (recipe: 2)" in weights(recipe)


def test_a_damaged_checkpoint_is_passed_over(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    write(tmp_path / "run/checkpoints" / step_name(3), recipe)
    (write(tmp_path / "run/checkpoints" / step_name(4), recipe) / "manifest.json").write_text("{")
    assert weights(recipe) == "weights: resume from step-00000003"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": LoraConfig()}, "the run's adapters are"),
        ({"tensors": {"weights": {}}}, "this checkpoint holds weights only"),
    ],
)
def test_what_cannot_be_resumed(make_recipe: MakeRecipe, tmp_path: Path, changes: Any, message: str) -> None:
    recipe = make_recipe()
    write(tmp_path / "run/checkpoints" / step_name(3), recipe, **changes)
    assert message in weights(recipe)


def test_init_from_a_checkpoint(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(checkpoint={"init_from": str(tmp_path / "base")})
    assert "no such directory" in weights(recipe)
    write(tmp_path / "base", recipe)
    assert weights(recipe) == f"weights: start from {tmp_path / 'base'}"
    assert "another model" in weights(
        make_recipe(model={"num_layers": 4}, checkpoint={"init_from": str(tmp_path / "base")})
    )


def test_init_from_adapters_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(checkpoint={"init_from": str(tmp_path / "base")})
    write(tmp_path / "base", recipe, lora=LoraConfig())
    assert "this checkpoint holds adapters" in weights(recipe)


def test_init_from_hugging_face(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    source = {"init_from": str(tmp_path / "hf")}
    recipe = make_recipe(checkpoint=source)
    write_hf(tmp_path / "hf", recipe.model, shards=2)
    assert weights(recipe) == f"weights: start from {tmp_path / 'hf'} (huggingface)"
    assert "another model" in weights(make_recipe(model={"ffn_hidden_size": 64}, checkpoint=source))
    assert "whose digests tell" in weights(make_recipe(checkpoint=source, lora={}))
    (tmp_path / "hf/model-00002-of-00002.safetensors").unlink()
    assert "missing: model-00002-of-00002.safetensors" in weights(recipe)
    (tmp_path / "hf/model.safetensors.index.json").unlink()
    assert "neither model.safetensors nor" in weights(recipe)
    (tmp_path / "hf/config.json").write_text('{"model_type": "t5"}')
    assert "architecture 't5'" in weights(recipe)


def test_init_from_nothing_known(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no weights here" in weights(make_recipe(checkpoint={"init_from": str(tmp_path / "empty")}))
