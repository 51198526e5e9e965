"""Data sets and tokenizer that do not fit are found by their heads and manifests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.files import digest_file
from megatron_octo.recipe.schema import Recipe
from megatron_octo.training.readiness.checklist import check_recipe
from tests.conftest import write_corpus
from tests.test_train import manifest

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set with a manifest, made with ``right.json``."""
    (tmp_path / "right.json").write_text('{"model": {}}')
    (tmp_path / "wrong.json").write_text('{"model": {}, "version": 2}')
    prefix = write_corpus(tmp_path / "data")
    manifest(prefix, tmp_path / "right.json")
    return prefix


def problems(make_recipe: MakeRecipe, prefix: Path, span: str = "0:1", **sections: Any) -> dict[str, str]:
    given = {"train": f"train: 1 {span} {prefix}", **sections.pop("data", {})}
    found = check_recipe(make_recipe(data=given, **sections))
    return {name: str(problem) for name, problem in found.problems.items()}


def test_all_fits(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    valid = {"valid": f"v: 1 0:0.5 {data}", "tokenizer": str(tmp_path / "right.json")}
    assert problems(make_recipe, data, data=valid) == {}


@pytest.mark.parametrize("suffix", ["bin", "idx"])
def test_a_file_is_missing_or_cut(make_recipe: MakeRecipe, data: Path, suffix: str) -> None:
    path = Path(f"{data}.{suffix}")
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in problems(make_recipe, data)["data.train"]
    path.unlink()
    assert f"where: {path}" in problems(make_recipe, data)["data.train"]


def test_validation_data_count_too(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    found = problems(make_recipe, data, data={"valid": f"v: 1 0:1 {tmp_path / 'nothing'}"})
    assert list(found) == ["data.valid"] and "no such data set file" in found["data.valid"]


def test_an_empty_range(make_recipe: MakeRecipe, data: Path) -> None:
    found = problems(make_recipe, data, span="0:0.001")
    assert "no documents in this range: 120 in the data set" in found["data.train"]


def test_data_paths_that_cannot_be_read(make_recipe: MakeRecipe, data: Path) -> None:
    assert "no such file of data paths" in problems(make_recipe, data, data={"train": "nowhere"})["data.train"]
    two = {"train": f"a: 1 0:1 {data}; b: 1 0:1 {data}"}
    assert "2 groups of training data" in problems(make_recipe, data, data=two)["data.train"]


def test_a_broken_manifest(make_recipe: MakeRecipe, data: Path) -> None:
    path = Path(f"{data}.json")
    path.write_text(path.read_text().replace("25", "26", 1))
    assert "damaged manifest" in problems(make_recipe, data)["data.train"]


def test_vocabulary(make_recipe: MakeRecipe, data: Path) -> None:
    found = problems(make_recipe, data, model={"vocab_size": 1000})
    assert "the data's vocabulary has 1001 tokens, the model's 1000" in found["data.train"]


def test_another_tokenizer(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    found = problems(make_recipe, data, data={"tokenizer": str(tmp_path / "wrong.json")})
    assert "the data was made with another tokenizer" in found["data.tokenizer"]
    assert problems(make_recipe, data, data={"tokenizer": str(tmp_path / "none.json")})["data.tokenizer"]


def test_two_data_sets_of_different_tokenizers(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "other")
    manifest(other, tmp_path / "wrong.json")
    found = problems(make_recipe, data, data={"train": f"train: 1 0:1 {data}, 1 0:1 {other}"})
    assert "another tokenizer" in found["data.train"]


def test_no_tokenizer_file(make_recipe: MakeRecipe, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("[]")
    found = problems(make_recipe, corpus, data={"tokenizer": str(tmp_path / "t.json")})
    assert "not a tokenizer.json" in found["data.tokenizer"]


def test_the_run_has_another_tokenizer(make_recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.json").write_text("{}")
    assert digest_file(tmp_path / "run/tokenizer.json") != digest_file(tmp_path / "right.json")
    found = problems(make_recipe, data, data={"tokenizer": str(tmp_path / "right.json")})
    assert "this run was made with another tokenizer" in found["data.tokenizer"]
