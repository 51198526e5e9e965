"""The thirty tasks: five scenarios in six languages, and the parts of their prompts."""

import fnmatch
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import did_you_mean
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.records import LANGUAGES

SCENARIOS = ("fixtests", "fixdocs", "explaindescribe", "explainsynthesize", "synthesize")
TITLES = {"python": "Python", "cpp": "C++", "js": "JavaScript", "java": "Java", "go": "Go", "rust": "Rust"}
EXTENSIONS = {"python": "py", "cpp": "cpp", "js": "js", "java": "java", "go": "go", "rust": "rs"}


@dataclass(frozen=True)
class Task:
    """One scenario in one language."""

    scenario: str
    language: str

    @property
    def name(self) -> str:
        """Name as the original harness has it, ``humanevalfixtests-python``."""
        return f"humaneval{self.scenario}-{self.language}"

    @property
    def is_fix(self) -> bool:
        """Whether a buggy function is to be repaired."""
        return self.scenario.startswith("fix")

    @property
    def documented(self) -> bool:
        """Whether the prompt ends with the documented head of the function."""
        return self.scenario in ("fixdocs", "synthesize")

    @property
    def describes(self) -> bool:
        """Whether the answer is prose, which is not executed."""
        return self.scenario == "explaindescribe"

    def base(self, row: Row) -> str:
        """Return the head of the function that the answer continues."""
        if self.documented:
            return row.prompt
        return f"fn main(){{}}\n{row.declaration}" if row.language == "rust" else row.declaration

    def instruction(self, row: Row) -> str:
        """Return what the model is asked to do."""
        if self.is_fix:
            return f"Fix bugs in {row.entry_point}."
        if self.describes:
            count = len(row.docstring)
            return f"Provide a concise natural language description of the code using at most {count} characters."
        if self.scenario == "explainsynthesize":
            return f"Write functional code in {TITLES[row.language]} according to the description."
        return row.instruction.strip()

    def context(self, row: Row, description: str | None = None) -> str | None:
        """Return the code or description that belongs to the instruction, or None.

        Raises:
            OctoError: the task needs a description and there is none.
        """
        if self.scenario == "fixtests":
            return f"{self.base(row)}{row.buggy_solution}\n{row.test}"
        if self.scenario == "fixdocs":
            return f"{self.base(row)}{row.buggy_solution}"
        if self.describes:
            return f"{self.base(row)}{row.canonical_solution}"
        if self.scenario == "explainsynthesize":
            if description is None:
                raise OctoError(
                    f"{self.name} needs descriptions",
                    where="--tasks",
                    hint=f"generate humanevalexplaindescribe-{self.language} into the same --output first",
                )
            return description
        return None

    def solution(self, row: Row, code: str) -> str:
        """Join the head of the function with the code that continues it (from its first newline on)."""
        head = row.prompt if self.scenario == "explainsynthesize" else self.base(row)
        return head.rstrip() + code


def all_tasks() -> list[Task]:
    """Return the thirty tasks; descriptions come before what is made from them."""
    return [Task(scenario, language) for scenario, language in itertools.product(SCENARIOS, LANGUAGES)]


def task_named(name: str) -> Task:
    """Return the task of a name.

    Raises:
        OctoError: there is none.
    """
    for task in all_tasks():
        if task.name == name:
            return task
    raise _unknown(name)


def parse_tasks(text: str) -> list[Task]:
    """Return the tasks of a comma list of names, patterns (``humanevalfix*-python``) or ``all``, in their own order.

    Raises:
        OctoError: a name or pattern that fits none.
    """
    chosen: set[Task] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        found = [task for task in all_tasks() if word == "all" or fnmatch.fnmatchcase(task.name, word)]
        if not found:
            raise _unknown(word)
        chosen.update(found)
    if not chosen:
        raise OctoError("no task is named", where="--tasks", hint="all, or humanevalsynthesize-python, ...")
    return in_order(chosen)


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """Sort tasks as :func:`all_tasks`."""
    wanted = set(tasks)
    return [task for task in all_tasks() if task in wanted]


def _unknown(name: str) -> OctoError:
    near = did_you_mean(name, [task.name for task in all_tasks()])
    hint = f"did you mean {near}? " if near else ""
    return OctoError(
        f"unknown task {name!r}",
        where="--tasks",
        hint=f"{hint}humaneval{{{','.join(SCENARIOS)}}}-{{{','.join(LANGUAGES)}}}, patterns, or all",
    )
