"""Recipes of commit data: mistakes are named with file and stage, options become words of a command line."""

from pathlib import Path

import pytest

from megatron_octo.commits.chain.recipe import SHARED, SOURCES, read_recipe, words_of
from megatron_octo.commits.commands import COMMANDS, parser_of
from megatron_octo.common.errors import OctoError
from tests.places import PROJECT


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[]", "not a recipe"),
        ("output: a\nstage: []", "unknown key 'stage'"),
        ("stages: [languages]", "no output"),
        ("output: a\ninputs: b", "no stages"),
        ("output: a\njobs: 0\nstages: [languages]", "jobs: 0"),
        ("output: a\nstages: [languages]", "languages needs rows"),
        ("output: a\ninputs: b\nstages: [history]", "history takes no rows"),
        ("output: a\ninputs: b\nstages: [language]", "no command 'language'"),
        ("output: a\ninputs: b\nstages: [run]", "no command 'run'"),
        ("output: a\ninputs: b\nstages: [{filter: {rule: fixed}}]", "unknown option 'rule'"),
        ("output: a\ninputs: b\nstages: [{filter: {no_tokens: 1}}]", "not true or false"),
        ("output: a\ninputs: b\nstages: [{filter: {rules: [a, b]}}]", "takes one value"),
        ("output: a\ninputs: b\nstages: [{filter: {output: c}}]", "unknown option 'output'"),
        ("output: a\ninputs: b\nstages: [{filter: {}, dedup: {}}]", "not a stage"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "made.yaml"
    path.write_text(text)
    with pytest.raises(OctoError, match=what):
        read_recipe(path, parser_of)


def test_options_become_words() -> None:
    options = {"repositories": ["a", "-b"], "rev": ["x", "y"], "all": True, "roots": False, "max_commits": 5}
    words = words_of(parser_of("history"), options, "here")
    assert words == ["--rev=x", "--rev=y", "--all", "--max-commits=5", "--", "a", "-b"]
    assert words_of(parser_of("licences"), {"accept": ["mit", "isc"]}, "here") == ["--accept", "mit", "isc"]


def test_the_recipe_that_comes_with_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    recipe = read_recipe("commits/commits.yaml", parser_of)
    assert recipe.steps[0].name == "history" and "--drop" in recipe.steps[-1].words
    assert {step.name for step in recipe.steps} <= set(COMMANDS)


def test_names_of_stages_are_commands() -> None:
    assert {*SOURCES, *SHARED} <= set(COMMANDS)
