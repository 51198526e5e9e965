"""The page, the schema and ``--help-keys`` describe the recipe as it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import parse_yaml, section_class
from megatron_octo.recipe import reference
from megatron_octo.recipe.schema import Recipe
from tests.places import PROJECT, RECIPES

SCHEMA = RECIPES / "recipe.schema.json"


def test_the_committed_page_and_schema_are_current() -> None:
    """Run `make generated` after a change of a key, its default or its description."""
    page = PROJECT / "docs/recipes.md"
    assert page.read_text() == reference.update_page(page.read_text(), str(page))
    assert json.loads(SCHEMA.read_text()) == reference.json_schema()


def test_every_key_and_section_is_described() -> None:
    for name, purpose, keys in reference.sections():
        assert purpose or not name, name
        for key in keys:
            assert key.meaning.endswith((".", ")")) and "|" not in key.meaning, key.name


def test_the_keys_are_those_of_the_recipe() -> None:
    described = [key.name for _, _, keys in reference.sections() for key in keys]
    expected = ["run_dir"]
    for name, field in Recipe.model_fields.items():
        if section := section_class(field.annotation):
            expected += [name] if name == "lora" else []
            expected += [f"{name}.{key}" for key in section.model_fields]
    assert described == expected


def test_defaults_are_yaml_of_the_real_ones() -> None:
    for name, _, keys in reference.sections():
        model: Any = section_class(Recipe.model_fields[name].annotation) if name else Recipe
        for key in keys:
            field = (Recipe if key.name == name else model).model_fields[key.name.rpartition(".")[2]]
            if field.is_required():
                assert key.default == "-"
            else:
                value = parse_yaml(key.default, "test")
                assert (tuple(value) if isinstance(field.default, tuple) else value) == field.default
                assert type(value) is type(field.default) or isinstance(value, list)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_fit_the_schema_that_they_name(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA.name}"
    jsonschema.validate(parse_yaml(path.read_text(), str(path)), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("optimizer"),
        lambda tree: tree["data"].pop("seq_length"),
        lambda tree: tree["data"].update(sequence=1),
        lambda tree: tree["train"].update(precision="fp16"),
        lambda tree: tree["train"].update(steps="many"),
        lambda tree: tree["model"].update(num_layers=0),
    ],
)
def test_the_schema_refuses_what_the_recipe_refuses(change: Any) -> None:
    tree = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    tree["optimizer"] = {"lr": 1e-3}  # YAML 1.1 reads 6e-3 as text
    jsonschema.validate(tree, reference.json_schema())
    change(tree)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, reference.json_schema())


def test_a_recipe_with_a_base_may_be_partial() -> None:
    jsonschema.validate({"base": "demo.yaml", "data": {"fim_rate": 0.5}}, reference.json_schema())


def test_help_shows_all_one_section_or_one_key() -> None:
    everything = reference.help_text()
    assert all(f"  {key.name} (" in everything for _, _, keys in reference.sections() for key in keys)
    guard = reference.help_text("guard")
    assert "guard.window (default 128)" in guard and "data.train" not in guard
    assert reference.help_text("data.train").splitlines()[0] == "  data.train (required)"
    with pytest.raises(OctoError, match="no section or key 'gard'") as error:
        reference.help_text("gard")
    assert "did you mean guard?" in str(error.value)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(OctoError, match="no generated part"):
        reference.update_page("# a page", "page.md")


@pytest.mark.parametrize("argv", [["train", "--help-keys", "data"], ["schema"]])
def test_descriptions_need_no_torch(argv: list[str]) -> None:
    script = (
        "import sys; from megatron_octo import cli\n"
        f"try: cli.main({argv!r})\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
    assert "seq_length" in done.stdout
