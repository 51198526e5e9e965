"""Tests of heads of functions."""

import pytest

from megatron_octo.evaluation.benchmark.heads import head_of
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import HEADS


@pytest.mark.parametrize("language", LANGUAGES)
def test_parts(language: str) -> None:
    head = head_of(language, HEADS[language].rstrip())
    assert head.name == "doubled"
    assert "doubled" not in head.before
    assert head.text.startswith(head.before)
    assert "xs" in head.used


def test_helpers_are_taken() -> None:
    head = head_of("js", "const aux = (x) => {\n  return x;\n}\n\nconst f = (x) => {")
    assert head.name == "f"
    assert head.taken == {"aux"}
    assert head.before.endswith("}\n\n")
    assert head_of("java", HEADS["java"].rstrip()).taken == {"Solution"}
    assert head_of("rust", HEADS["rust"].rstrip()).taken == {"HashMap", "HashSet"}


def test_what_is_no_head_has_no_name() -> None:
    assert head_of("go", "???").name == ""
