"""Tests of tasks."""

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.tasks import Task, all_tasks, in_order, parse_tasks, task_named
from tests.evaluation.benchmark.examples import row


def test_there_are_thirty() -> None:
    names = [task.name for task in all_tasks()]
    assert len(set(names)) == 30
    assert parse_tasks("all") == all_tasks()
    assert [task_named(name) for name in names] == all_tasks()
    for language in ("python", "rust"):  # what is made from descriptions comes after them
        assert names.index(f"humanevalexplaindescribe-{language}") < names.index(
            f"humanevalexplainsynthesize-{language}"
        )


def test_patterns_and_lists() -> None:
    assert [task.name for task in parse_tasks(" humanevalfix*-python , humanevalsynthesize-go,")] == [
        "humanevalfixtests-python",
        "humanevalfixdocs-python",
        "humanevalsynthesize-go",
    ]
    assert len(parse_tasks("humaneval*-rust,humanevalfix*")) == 3 + 12
    assert in_order(reversed(all_tasks())) == all_tasks()


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("humanevalfixtest-python", "unknown task 'humanevalfixtest-python'", "did you mean humanevalfixtests-python"),
        ("humanevalfix*-ruby", "unknown task", "patterns, or all"),
        (" , ", "no task is named", "all"),
    ],
)
def test_unknown_names(text: str, what: str, hint: str) -> None:
    with pytest.raises(OctoError, match="--tasks") as caught:
        parse_tasks(text)
    assert what in str(caught.value)
    assert hint in str(caught.value)


def test_parts_of_a_prompt() -> None:
    found = row("rust", prompt="docs{\n", declaration="fn doubled{\n", test="test")
    base = "fn main(){}\nfn doubled{\n"
    buggy, right = found.buggy_solution, found.canonical_solution
    expected = {
        "fixtests": (base, "Fix bugs in doubled.", f"{base}{buggy}\ntest"),
        "fixdocs": ("docs{\n", "Fix bugs in doubled.", f"docs{{\n{buggy}"),
        "explainsynthesize": (base, "Write functional code in Rust according to the description.", "words"),
        "synthesize": ("docs{\n", found.instruction.strip(), None),
    }
    for scenario, parts in expected.items():
        task = Task(scenario, "rust")
        assert (task.base(found), task.instruction(found), task.context(found, "words")) == parts
    task = Task("explaindescribe", "rust")
    assert task.context(found) == base + right
    assert task.instruction(found).endswith("using at most 19 characters.")


def test_solutions_join_head_and_code() -> None:
    found = row("cpp", prompt="docs{\n", declaration="head{\n")
    assert Task("fixtests", "cpp").solution(found, "\n  x;}") == "head{\n  x;}"
    assert Task("explainsynthesize", "cpp").solution(found, "\n  x;}") == "docs{\n  x;}"


def test_descriptions_are_wanted() -> None:
    with pytest.raises(OctoError, match="needs descriptions"):
        Task("explainsynthesize", "go").context(row("go"))
