"""Tests of the original harness's rules, faults and all. They were compared with its own code on 106,272 texts."""

import pytest

from megatron_octo.evaluation.benchmark.compat import finished, post_process, stop_words, without_code
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import needs_rows, unrepaired


def test_stop_words() -> None:
    assert stop_words("cpp", ["<|end|>"]) == ["<|end|>", "<|endoftext|>"]
    assert "struct" in stop_words("go")
    assert stop_words("python")[0] == "\nclass"


@pytest.mark.parametrize(
    ("language", "text", "code"),
    [
        ("python", "\n    x\n# comment\n    y", "\n    x"),
        ("python", "\n    x\n\ny = 1\n", "\n    x\n"),
        ("python", "    x\n    'a\n@'", "    x\n    'a"),
        ("cpp", "\n  if (x) { y; }\n  return 1;\n}\nint main(){}", "\n  if (x) { y; }\n  return 1;\n}"),
        ("js", "\n  return '}';\n}\n", "\n  return '}"),
        ("js", "\n  return '{';\n}\n", "\n  return '{';\n}"),
        ("rust", "\n  if x { y } z", "\n  if x { y }"),
        ("rust", "\n  x", "\n  x"),
        ("go", "\n  set := map[int]struct{}{}\n}", "\n  set := map[int]"),
        ("go", "\n  x\n}\nfunc y() {}", "\n  x\n}"),
        ("java", "\n  x;\n  }\n}\nclass Y {}", "\n  x;\n  }\n}"),
        ("java", "\n  x;\n  }\n", "\n  x;\n  }"),
        ("java", "\n  { x;\n  }\n public static void main(", "\n  { x;\n  }\n }"),
        ("java", "\n  { { x; }", "\n  { { x; }\n}"),
        ("java", "\n x;}}<|endoftext|>}", "\n x;}}"),
    ],
)
def test_post_processing(language: str, text: str, code: str) -> None:
    assert post_process(language, text) == code


def test_ends_of_generations() -> None:
    assert finished("python", "\n    x\ny")
    assert not finished("python", "\n    x\n  y\n")
    assert finished("js", "x }") and not finished("java", "x }") and finished("java", "x } }")
    assert finished("go", "structure") and finished("rust", "<|endoftext|>") and not finished("rust", "x")
    assert finished("cpp", "a<|end|>", ["<|end|>"])


def test_quoted_code() -> None:
    solution = "    return something(long)\n    short\n"
    assert without_code("a return something(long) b short", solution) == "a  b short"


@needs_rows
def test_published_solutions_that_the_rules_destroy() -> None:
    changed = {
        (language, found.number)
        for language in LANGUAGES
        for found in unrepaired(language)
        if (made := cut(Task("fixtests", language), found, "\n" + found.canonical_solution, compat=True))
        and made.code != "\n" + found.canonical_solution.rstrip()
    }
    assert changed == {("go", 72), ("go", 90), ("go", 158), ("rust", 137), ("rust", 145), ("cpp", 94)}
