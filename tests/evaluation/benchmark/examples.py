"""Rows for tests: a small problem of our own in six languages, and the published rows where ../shared has them."""

import functools

import pytest

from megatron_octo.evaluation.benchmark.rows import TASK_IDS, Row, read_rows
from tests.places import SHARED

needs_rows = pytest.mark.skipif(
    not (SHARED / "humanevalpack_python.jsonl.gz").is_file(), reason="../shared/data is not here"
)

HEADS = {
    "python": "from typing import List\n\n\ndef doubled(xs: List[int]) -> List[int]:\n",
    "js": "\nconst doubled = (xs) => {\n",
    "java": "import java.util.*;\n\nclass Solution {\n    public List<Integer> doubled(List<Integer> xs) {\n",
    "go": '\nimport (\n    "math"\n)\n\nfunc doubled(xs []int) []int {\n',
    "cpp": "#include<vector>\nusing namespace std;\nvector<int> doubled(vector<int> xs){\n",
    "rust": "use std::collections::{HashMap, HashSet};\n\nfn doubled(xs: Vec<i32>) -> Vec<i32>{\n",
}
BODIES = {
    "python": "    return [2 * x for x in xs]\n",
    "js": "  return xs.map((x) => { return 2 * x; });\n}\n\n",
    "java": "        List<Integer> ys = new ArrayList<>();\n        for (int x : xs) { ys.add(2 * x); }\n"
    "        return ys;\n    }\n}",
    "go": "    ys := []int{}\n    for _, x := range xs {\n        ys = append(ys, 2*x)\n    }\n    return ys\n}\n\n",
    "cpp": "    for (int &x : xs) { x *= 2; }\n    return xs;\n}\n\n",
    "rust": "    xs.iter().map(|x| { 2 * x }).collect()\n}\n",
}


def row(language: str, **changed: str) -> Row:
    """Return the example in a language, with changed fields."""
    texts = {
        "task_id": f"{TASK_IDS[language]}/0",
        "prompt": HEADS[language],
        "declaration": HEADS[language],
        "canonical_solution": BODIES[language],
        "buggy_solution": BODIES[language].replace("2", "3"),
        "bug_type": "value misuse",
        "failure_symptoms": "incorrect output",
        "entry_point": "doubled",
        "signature": "doubled",
        "docstring": "Double each number.",
        "instruction": "Write a function `doubled` to solve the following problem:\nDouble each number.\n",
        "test": "test of doubled\n",
        "example_test": "",
    }
    return Row(language=language, number=0, **(texts | changed))


@functools.cache
def published(language: str) -> tuple[Row, ...]:
    """Return the published rows with their repairs."""
    return tuple(read_rows(SHARED, language))


@functools.cache
def unrepaired(language: str) -> tuple[Row, ...]:
    """Return the rows as published."""
    return tuple(read_rows(SHARED, language, repaired=False))
