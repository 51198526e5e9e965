"""Strict YAML: numbers, places, hints, and texts that no file should hold."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import (
    compose_yaml,
    did_you_mean,
    dump_yaml,
    key_lines,
    nearest_key,
    parse_yaml,
    read_text,
)


@pytest.mark.parametrize(
    ("text", "value", "plain"),
    [
        ("5e-5", 5e-5, "5e-5"),
        ("1.5", 1.5, "1.5"),
        ("7", 7, 7),
        ("1_000", 1000, "1_000"),
        ("0x10", 16, "0x10"),
        ("010", 10.0, "010"),
        ("20:00:00", "20:00:00", "20:00:00"),
        ("2024-01-01", "2024-01-01", "2024-01-01"),
        (".inf", math.inf, ".inf"),
        ("yes", True, True),
        ("", None, None),
    ],
)
def test_numbers(text: str, value: Any, plain: Any) -> None:
    assert parse_yaml(text, "here") == value
    assert parse_yaml(text, "here", fractions=False) == plain


@pytest.mark.parametrize(
    "value", ["5e-5", "010", "20:00:00", "2024-01-01", "yes", "1.5", ".inf", "é: x", 5e-5, 1e300, 3, None]
)
def test_what_is_written_is_read_back(value: Any) -> None:
    tree = {"a": value, "b": [value]}
    assert parse_yaml(dump_yaml(tree), "here") == tree


@pytest.mark.parametrize(
    ("text", "says", "where"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "key 'c' given twice", "f.yaml:2"),
        ("a: [1\nb: 2\n", "not valid YAML", "f.yaml:2"),
        ("[" * 5000, "nested too deeply", "f.yaml"),
        ("a: " + "9" * 5000, "not valid YAML", "f.yaml"),
        ("a: \x07", "not valid YAML", "f.yaml"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML", "f.yaml:1"),
    ],
)
@pytest.mark.slow
def test_what_is_not_valid(text: str, says: str, where: str) -> None:
    with pytest.raises(OctoError, match=says) as error:
        parse_yaml(text, "f.yaml")
    assert error.value.where == where


def test_lines_also_of_aliases_that_lead_back() -> None:
    assert key_lines("a:\n  b: 1\nc: 2\n", "f") == {"a": "f:1", "a.b": "f:2", "c": "f:3"}
    assert key_lines("a: &x\n  b: *x\n", "f") == {"a": "f:1", "a.b": "f:2"}
    assert compose_yaml("", "f") is None


def test_text_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(OctoError, match="not UTF-8") as error:
        read_text(path)
    assert error.value.where == f"{path}:2"


class Inner(BaseModel):
    learning: float = 0.0
    cpus_per_task: int = 1


class Outer(BaseModel):
    one: Inner = Inner()
    many: dict[str, Inner] = {}
    maybe: Inner | None = None
    steps: int = 1


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("one.leraning", "one.learning"),
        ("one.cpus", "one.cpus_per_task"),
        ("many.x.cpus", "many.x.cpus_per_task"),
        ("maybe.learing", "maybe.learning"),
        ("one.steps", "steps"),
        ("one.lr", "one.learning"),
        ("LR", "one.learning"),
        ("one.xyzzy", None),
    ],
)
def test_nearest_key(key: str, meant: str | None) -> None:
    assert nearest_key(Outer, key.split("."), {"lr": "one.learning"}) == meant


def test_did_you_mean() -> None:
    assert did_you_mean("comits", ["commits", "chat"]) == "commits"
    assert did_you_mean("xyzzy", ["commits", "chat"]) is None
