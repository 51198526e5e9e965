"""Tests of when a generation may end."""

import pytest

from megatron_octo.evaluation.benchmark.cutting import cut, finished
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import BODIES, HEADS, needs_rows, published, row
from tests.evaluation.benchmark.test_cutting import HELPED

NEXT = {
    "python": "def unrelated(x):\n    return x\n",
    "js": "const unrelated = (x) => {\n  return x;\n}\n",
    "java": "class Unrelated {}\n",
    "go": "// Unrelated\nfunc unrelated(x int) int {\n    return x\n}\n",
    "cpp": "int unrelated(int x){ return x; }\n",
    "rust": "fn unrelated(x: i32) -> i32 {\n    x\n}\n",
}


def _end(language: str, base: str, text: str) -> int | None:
    """Return after how many characters a generation of the text ends."""
    return next((size for size in range(len(text) + 1) if finished(language, base, text[:size])), None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_ends_with_the_function(language: str) -> None:
    whole = "\n" + BODIES[language].rstrip()
    end = _end(language, HEADS[language], whole + "\n\n\n" + NEXT[language])
    assert end == len(whole) + (4 if language == "python" else 0)  # Python's ends where the next thing begins


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "cpp"])
def test_waits_for_what_the_function_calls(language: str) -> None:
    before, _, after = HELPED[language]
    text = "\n" + before + after + "\n" + NEXT[language]
    end = _end(language, HEADS[language], text)
    assert end is not None
    made = cut(Task("fixtests", language), row(language), text[:end])
    assert made.code.split() == (before + after).split()


@pytest.mark.parametrize("language", LANGUAGES)
def test_waits_not_for_ever(language: str) -> None:
    body = BODIES[language].replace("2", "missing(2)")
    text = "\n" + body.rstrip() + "\n\n" + NEXT[language] * 2
    end = _end(language, HEADS[language], text)
    assert end is not None
    assert end < len(text) - len(NEXT[language])


@pytest.mark.parametrize("language", LANGUAGES)
def test_blocks_end_with_their_second_fence(language: str) -> None:
    text = f"\nHere it is:\n```x\n{HEADS[language]}{BODIES[language]}\n```"
    assert _end(language, HEADS[language], text + "\nmore") == len(text)
    assert not finished(language, HEADS[language], "")
    assert not finished(language, HEADS[language], "\nprose")


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
def test_published_solutions_are_never_ended_early(language: str) -> None:
    task = Task("fixtests", language)
    for found in published(language):
        whole = "\n" + found.canonical_solution.rstrip()
        text = whole + "\n\n" + NEXT[language]
        ends = [place for place, char in enumerate(text, start=1) if char not in " \t" and not char.isalnum()]
        end = next(size for size in [*ends, len(text)] if finished(language, task.base(found), text[:size]))
        assert cut(task, found, text[:end]).code.split() == cut(task, found, whole).code.split()
