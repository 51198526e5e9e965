"""Recipes of mixtures: the command line and mistakes."""

from pathlib import Path

import pytest

from megatron_octo.commits.sources.mix_recipe import parse_sources, read_recipe
from megatron_octo.common.errors import OctoError


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("a=x.jsonl", {"path": "x.jsonl"}),
        ("a=d/x.jsonl:0.5", {"path": "d/x.jsonl", "weight": 0.5}),
        ("a=x:2:100", {"path": "x", "weight": 2.0, "cap": 100}),
        ("a=x=y:z", {"path": "x=y:z"}),
    ],
)
def test_sources_of_the_command_line(flag: str, value: dict[str, object]) -> None:
    assert parse_sources([flag]) == {"a": value}


@pytest.mark.parametrize("flags", [["a"], ["=x"], ["a="], ["a=x", "a=y"]])
def test_bad_sources(flags: list[str]) -> None:
    with pytest.raises(OctoError, match="--source"):
        parse_sources(flags)


def test_paths_are_relative_to_the_recipe_and_flags_go_before(tmp_path: Path) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text("seed: 1\nsources:\n  a: {path: [x, /y], languages: [py]}\n  b: {path: z}\nlanguages: [go]\n")
    found = read_recipe(path, {"seed": 2})
    assert found.seed == 2 and found.sources["a"].paths == [str(tmp_path / "x"), "/y"]
    assert [found.languages_of(each) for each in found.sources.values()] == [{"Python"}, {"Go"}]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sources: {}\n", "sources"),
        ("[]\n", "not a mapping"),
        ("sources:\n  a: {path: x, wieght: 2}\n", "did you mean 'sources.a.weight'"),
        ("sources:\n  a: {path: x, weight: 0}\n", "greater than 0"),
        ("sources:\n  a: {path: x, weight: .inf}\n", "finite"),
        ("sources:\n  a: {path: x, languages: [klingon]}\n", "no language 'klingon'"),
        ("sources:\n  a: {path: x}\nlanguage_cap: {klingon: 1}\n", "no language 'klingon'"),
        ("sources:\n  a: {path: x}\nlanguage_cap: -1\n", "not negative"),
        ("sources:\n  a: {path: x}\ntotal: 0\n", "total"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    with pytest.raises(OctoError, match=what) as error:
        read_recipe(path, {})
    assert str(path) in str(error.value.where)
