"""Rows of HumanEvalPack."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One problem in one language; fields as published, except ``imports`` (published as ``import``).

    Attributes:
        language: ``python``, ``js``, ``java``, ``go``, ``cpp`` or ``rust``; ``number``: of the problem, 0 to 163.
        prompt: context, signature and docstring; ``declaration``: the same without docstring.
        canonical_solution: body of the right solution; ``buggy_solution``: the same with a bug.
        imports: Go's imports of the prompt; ``test_setup``: Go's head of the test file. Empty elsewhere.
    """

    language: str
    number: int
    task_id: str
    prompt: str
    declaration: str
    canonical_solution: str
    buggy_solution: str
    bug_type: str
    failure_symptoms: str
    entry_point: str
    signature: str
    docstring: str
    instruction: str
    test: str
    example_test: str
    imports: str = ""
    test_setup: str = ""
