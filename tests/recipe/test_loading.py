"""Recipes: what is read, and where the finger points when it is wrong."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import _all_keys
from megatron_octo.recipe.loading import ALIASES, build_recipe, dump_recipe, load_recipe, recipe_digest
from megatron_octo.recipe.schema import Recipe
from tests.conftest import recipe_tree

TEXT = """\
run_dir: runs/x
model:
  num_layers: 2
  hidden_size: 32
  num_attention_heads: 4
  ffn_hidden_size: 128
  max_position_embeddings: 64
  vocab_size: 1001
data:
  train: "train: 1.0 0:1 corpus"
  seq_length: 64
batch: {global_size: 8, micro_size: 2}
optimizer:
  lr: 5e-5
train:
  steps: 6
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def refused(path: Path, old: str = "", new: str = "", overrides: tuple[str, ...] = ()) -> OctoError:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(OctoError) as error:
        load_recipe(path, overrides)
    return error.value


def test_numbers_as_people_write_them(file: Path) -> None:
    for text, value in {
        "5e-5": 5e-5,
        "1E-3": 1e-3,
        "+2.5e-4": 2.5e-4,
        ".5": 0.5,
        "1.": 1.0,
        "1": 1.0,
    }.items():
        assert load_recipe(file, [f"optimizer.lr={text}"]).optimizer.lr == value
    recipe = load_recipe(file, ["train.steps=1_000", "train.seed=0"])
    assert (recipe.train.steps, recipe.train.seed) == (1000, 0)
    assert load_recipe(file).optimizer.lr == 5e-5


def test_unknown_key_names_the_nearest_and_the_line(file: Path) -> None:
    error = refused(file, "hidden_size: 32", "hiden_size: 32")
    assert "unknown key 'model.hiden_size'; did you mean 'model.hidden_size'?" in error.what
    assert "missing key 'model.hidden_size'" in error.what
    assert f"{file}:4" in error.what


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sequence_length: 3", "data.seq_length"),
        ("steps: 3", "train.steps"),
        ("modl: {}", "model"),
        ("xyzzy: 3", None),
    ],
)
def test_unknown_keys_elsewhere(file: Path, key: str, nearest: str | None) -> None:
    error = refused(file, "train:\n  steps", f"{key}\ntrain:\n  steps")
    assert f"unknown key '{key.partition(':')[0]}'" in error.what
    assert f"{file}:15" in str(error.where)
    assert (f"did you mean {nearest!r}?" in error.what) if nearest else ("did you mean" not in error.what)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("optimizer.learning_rate=1e-4", "optimizer.lr"),
        ("train.num_train_epochs=3", "train.steps"),
        ("batch.per_device_train_batch_size=3", "batch.micro_size"),
        ("max_seq_length=3", "data.seq_length"),
        ("model.max_seq_length=3", "data.seq_length"),
        ("train.bf16=true", "train.precision"),
        ("model.n_layer=3", "model.num_layers"),
        ("train.warmup_ratio=0.1", "schedule.warmup_fraction"),
    ],
)
def test_names_of_other_programs_are_understood(file: Path, override: str, meant: str) -> None:
    with pytest.raises(OctoError) as error:
        load_recipe(file, [override])
    assert f"did you mean {meant!r}?" in error.value.what


def test_every_hint_names_a_key() -> None:
    known = set(_all_keys(Recipe))
    assert set(ALIASES.values()) <= known
    assert not known & set(ALIASES), "a hint for a name that is right"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "num_layers: 2",
            "num_layers: two",
            3,
            "model.num_layers: input should be a valid integer, found 'two'",
        ),
        ("num_layers: 2", "num_layers: 2.0", 3, "model.num_layers"),
        ("num_layers: 2", "num_layers: true", 3, "model.num_layers"),
        ("num_layers: 2", "num_layers: 0", 3, "greater than 0"),
        ("num_layers: 2", "num_layers:", 3, "model.num_layers"),
        ("lr: 5e-5", "lr: '5e-5'", 14, "optimizer.lr: input should be a valid number"),
        ("  lr: 5e-5", "  lr: 1e-3\n  min_lr: 1e-2", 13, "min_lr 0.01 is above lr 0.001"),
        ("num_attention_heads: 4", "num_attention_heads: 5", 2, "num_attention_heads 5 does not divide"),
        ("train:\n  steps: 6", "train: 6", 15, "train"),
        ("run_dir: runs/x", "run_dir: 3", 1, "run_dir: input should be a valid string"),
    ],
)
def test_wrong_values_name_key_and_line(file: Path, old: str, new: str, line: int, message: str) -> None:
    error = refused(file, old, new)
    assert message in error.what
    assert error.where == f"{file}:{line}"


def test_several_mistakes_are_told_together(file: Path) -> None:
    error = refused(file, "run_dir: runs/x\n", "", overrides=("train.steps=-1", "log.intervall=3"))
    assert "missing key 'run_dir'" in error.what
    assert "train.steps: input should be greater than 0, found -1  (command line)" in error.what
    assert "did you mean 'log.interval'?  (command line)" in error.what


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("run_dir: a\nmodel: {\n", "not valid YAML", ":3"),
        ("run_dir: a\nrun_dir: b\n", "key 'run_dir' given twice", ":2"),
        ("model:\n  a: 1\n  b: 2\n  a: 3\n", "key 'a' given twice", ":4"),
        ("a: !!python/object/apply:os.system [true]\n", "not valid YAML", ":1"),
        ("a: *nowhere\n", "not valid YAML", ":1"),
        ("\ta: 1\n", "not valid YAML", ":1"),
        ("? [a, b]\n: 1\n", "not valid YAML", ":1"),
        ("a: \x01\n", "not valid YAML", ""),
        ("- a\n- b\n", "a recipe is a YAML mapping", ""),
        ("", "a recipe is a YAML mapping", ""),
        ("just text", "a recipe is a YAML mapping", ""),
    ],
)
def test_broken_yaml(file: Path, text: str, message: str, line: str) -> None:
    file.write_text(text)
    with pytest.raises(OctoError, match=message) as error:
        load_recipe(file)
    assert str(error.value.where) == f"{file}{line}"


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x80\x81\xff")
    with pytest.raises(OctoError, match="not UTF-8") as error:
        load_recipe(tmp_path / "binary")
    assert error.value.where == f"{tmp_path / 'binary'}:1"
    with pytest.raises(FileNotFoundError):  # run_command has the words for it
        load_recipe(tmp_path / "missing")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "cannot read the override 'train.steps'"),
        ("=3", "cannot read the override"),
        ("train.steps.more=3", "'steps' is a value, not a section"),
        ("trian.steps=3", "unknown key 'trian'; did you mean 'train'?"),
        ("train.steps=[1", "not valid YAML"),
        ("train.steps=", "train.steps"),
    ],
)
def test_bad_overrides(file: Path, override: str, message: str) -> None:
    error = refused(file, overrides=(override,))
    assert message in error.what
    assert "command line" in str(error)


def test_overrides(file: Path) -> None:
    recipe = load_recipe(
        file,
        ["train.steps=9", "system.device=cpu", "data.valid=valid: 1 0:1 other", "schedule={style: linear}"],
    )
    assert (recipe.train.steps, recipe.system.device, recipe.schedule.style) == (9, "cpu", "linear")
    assert recipe.data.valid == "valid: 1 0:1 other" or "valid" in str(recipe.data.valid)
    assert load_recipe(file, ["train.steps=1", "train.steps=2"]).train.steps == 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"seq_length": 65}}, "data.seq_length 65 is longer than model.max_position_embeddings 64"),
        ({"parallel": {"tensor": 3}}, "parallel.tensor 3 does not divide model.num_attention_heads, 4"),
        ({"parallel": {"pipeline": 3}}, "parallel.pipeline 3 does not divide model.num_layers 2"),
        ({"parallel": {"sequence": True}}, "sequence parallelism needs parallel.tensor > 1"),
        ({"batch": {"global_size": 7}}, "batch.micro_size 2 does not divide batch.global_size 7"),
        ({"schedule": {"warmup_steps": 6}}, "warm-up takes all of the 6 decay steps"),
        ({"schedule": {"warmup_steps": 1, "warmup_fraction": 0.1}}, "not both"),
        ({"eval": {"interval": 2}}, "eval.interval is set but data.valid is not"),
        ({"model": {"vocab_multiple": 1}, "parallel": {"tensor": 2}}, "the padded vocabulary"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(OctoError) as error:
        build_recipe(recipe_tree(tmp_path / "corpus", tmp_path / "run", **sections))
    assert message in error.value.what


def test_round_trip(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, ["optimizer.eps=1e-30", "optimizer.lr=3e-4", "system.overlap=false"])
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(tmp_path / "again.yaml")
    assert again == recipe
    assert recipe_digest(again) == recipe_digest(recipe) != recipe_digest(load_recipe(file))
    assert yaml.safe_load(dump_recipe(recipe))["model"]["hidden_size"] == 32


def test_a_recipe_never_changes(file: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(file).train.steps = 7  # type: ignore[misc]


def test_base_is_relative_to_the_file_and_sections_are_merged(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "variants"
    folder.mkdir()
    (folder / "middle.yaml").write_text("base: ../recipe.yaml\noptimizer: {lr: 1e-4}\nparallel: {tensor: 2}\n")
    (folder / "top.yaml").write_text("base: middle.yaml\noptimizer: {weight_decay: 0.0}\ntrain: {steps: 7}\n")
    recipe, below = load_recipe(folder / "top.yaml", ["train.steps=8"]), load_recipe(file)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.train.steps) == (1e-4, 0.0, 8)
    assert recipe.parallel.tensor == 2
    assert (recipe.model, recipe.data, recipe.batch) == (below.model, below.data, below.batch)
    assert "base" not in yaml.safe_load(dump_recipe(recipe))


def test_mistakes_name_the_file_that_made_them(file: Path, tmp_path: Path) -> None:
    top = tmp_path / "top.yaml"
    top.write_text("base: recipe.yaml\ntrain:\n  stepz: 3\n")
    error = refused(file, "hidden_size: 32", "hiden_size: 32")
    with pytest.raises(OctoError) as both:
        load_recipe(top)
    assert f"({file}:4)" in error.what and f"({file}:4)" in both.value.what
    assert f"unknown key 'train.stepz'; did you mean 'train.steps'?  ({top}:3)" in both.value.what


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nothing.yaml", "no recipe at"),
        ("top.yaml", "bases go in a circle: top.yaml -> top.yaml"),
        ("ring.yaml", "bases go in a circle: top.yaml -> ring.yaml -> top.yaml"),
        ("[recipe.yaml]", "base: expected a recipe file"),
        ("list.yaml", "a recipe is a YAML mapping of sections"),
    ],
)
def test_bases_that_cannot_be(file: Path, tmp_path: Path, base: str, message: str) -> None:
    (tmp_path / "ring.yaml").write_text("base: top.yaml\n")
    (tmp_path / "list.yaml").write_text("- a\n")
    top = tmp_path / "top.yaml"
    top.write_text(f"# a variant\nbase: {base}\n")
    with pytest.raises(OctoError) as error:
        load_recipe(top)
    assert message in error.value.what
    assert error.value.where in (f"{top}:2", str(tmp_path / "ring.yaml") + ":1", tmp_path / "list.yaml")


def test_recipes_of_the_time_when_saves_had_no_default(make_recipe: Callable[..., Recipe]) -> None:
    assert make_recipe(checkpoint={"asynchronous": None}).checkpoint.asynchronous is True
