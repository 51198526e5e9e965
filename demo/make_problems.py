"""Write five small problems with the fields of HumanEvalPack, for the demo's evaluation.

``python demo/make_problems.py DIR`` writes DIR/humanevalpack_python.jsonl.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One problem: a function, what it does, its body, the body with a bug, and pairs of arguments and result."""

    head: str
    text: str
    solution: str
    bug: str
    cases: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.head.partition("(")[0]

    def record(self, number: int) -> dict[str, str]:
        """Return the row of a number."""
        declaration = f"def {self.head}:\n"
        example = self.cases[0]
        docstring = f"{self.text}\n>>> {self.name}({example[0]})\n{example[1]}"
        inside = docstring.replace("\n", "\n    ")
        return {
            "task_id": f"Python/{number}",
            "prompt": f'{declaration}    """{inside}\n    """\n',
            "declaration": declaration,
            "canonical_solution": self.solution,
            "buggy_solution": self.bug,
            "bug_type": "value misuse",
            "failure_symptoms": "incorrect output",
            "entry_point": self.name,
            "signature": self.head,
            "docstring": docstring,
            "instruction": f"Write a Python function `{self.head}` to solve the following problem:\n{docstring}",
            "test": self._check(self.cases),
            "example_test": self._check(self.cases[:1]),
        }

    def _check(self, cases: tuple[tuple[str, str], ...]) -> str:
        lines = "".join(f"    assert {self.name}({given}) == {wanted}\n" for given, wanted in cases)
        return f"def check({self.name}):\n{lines}\ncheck({self.name})\n"


PROBLEMS = (
    Problem(
        "count_vowels(text: str) -> int",
        "Count the letters a, e, i, o, u in a text, small or capital.",
        '    return sum(letter in "aeiou" for letter in text.lower())\n',
        '    return sum(letter in "aeiou" for letter in text)\n',
        (('"Octopus"', "3"), ('""', "0"), ('"AEIOU xyz"', "5")),
    ),
    Problem(
        "clamp(value: int, low: int, high: int) -> int",
        "Return the value, or the border that it lies beyond.",
        "    return max(low, min(value, high))\n",
        "    return min(low, max(value, high))\n",
        (("12, 0, 10", "10"), ("-3, 0, 10", "0"), ("4, 0, 10", "4")),
    ),
    Problem(
        "running_total(numbers: list) -> list",
        "Return for each place the sum of all numbers up to it.",
        "    total, found = 0, []\n    for number in numbers:\n        total += number\n        found.append(total)\n"
        "    return found\n",
        "    total, found = 0, []\n    for number in numbers:\n        found.append(total)\n        total += number\n"
        "    return found\n",
        (("[1, 2, 3]", "[1, 3, 6]"), ("[]", "[]"), ("[5, -5]", "[5, 0]")),
    ),
    Problem(
        "is_mirrored(text: str) -> bool",
        "Return whether a text reads the same from both ends.",
        "    return text == text[::-1]\n",
        "    return text != text[::-1]\n",
        (('"level"', "True"), ('"arm"', "False"), ('""', "True")),
    ),
    Problem(
        "most_common(words: list) -> str",
        "Return the word that comes most often; of several, the first in the alphabet.",
        "    return min(set(words), key=lambda word: (-words.count(word), word))\n",
        "    return min(set(words), key=lambda word: (words.count(word), word))\n",
        (('["b", "a", "b"]', '"b"'), ('["z", "y"]', '"y"'), ('["x"]', '"x"')),
    ),
)


def main(folder: Path) -> None:
    """Write the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(problem.record(number)) for number, problem in enumerate(PROBLEMS)]
    (folder / "humanevalpack_python.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{folder / 'humanevalpack_python.jsonl'}: {len(lines)} problems")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
