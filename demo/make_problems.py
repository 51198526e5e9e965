"""Write five small problems with the fields of HumanEvalPack, in Python: ``demo/make_problems.py FOLDER``.

The benchmark itself is not part of this project; ``evaluate`` reads it from a folder or from the hub.
"""

import json
import sys
from pathlib import Path

# Name, signature, description, right body, body with a bug, test.
PROBLEMS = [
    (
        "double_all",
        "double_all(numbers: list) -> list",
        "Return the numbers, each twice as large.",
        "    return [2 * number for number in numbers]\n",
        "    return [2 + number for number in numbers]\n",
        "    assert candidate([1, 5]) == [2, 10]\n    assert candidate([]) == []\n",
    ),
    (
        "longest_word",
        "longest_word(text: str) -> str",
        "Return the longest word of a text, the first of equal ones.",
        "    return max(text.split(), key=len, default='')\n",
        "    return min(text.split(), key=len, default='')\n",
        "    assert candidate('a bbb cc ddd') == 'bbb'\n    assert candidate('') == ''\n",
    ),
    (
        "count_vowels",
        "count_vowels(text: str) -> int",
        "Return how many of a, e, i, o, u are in a text, in either case.",
        "    return sum(letter in 'aeiou' for letter in text.lower())\n",
        "    return sum(letter in 'aeiou' for letter in text)\n",
        "    assert candidate('Apple') == 2\n    assert candidate('xyz') == 0\n",
    ),
    (
        "running_sum",
        "running_sum(numbers: list) -> list",
        "Return for each number the sum of all numbers up to it.",
        "    total, sums = 0, []\n    for number in numbers:\n        total += number\n        sums.append(total)\n"
        "    return sums\n",
        "    total, sums = 0, []\n    for number in numbers:\n        sums.append(total)\n        total += number\n"
        "    return sums\n",
        "    assert candidate([1, 2, 3]) == [1, 3, 6]\n    assert candidate([]) == []\n",
    ),
    (
        "is_palindrome",
        "is_palindrome(text: str) -> bool",
        "Return whether a text reads the same from both ends.",
        "    return text == text[::-1]\n",
        "    return text == text[::1]\n",
        "    assert candidate('level') is True\n    assert candidate('levels') is False\n",
    ),
]


def main(folder: Path) -> None:
    """Write ``humanevalpack_python.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (name, signature, words, right, buggy, test) in enumerate(PROBLEMS):
        head = f"def {signature}:\n"
        row = {
            "task_id": f"Python/{number}",
            "prompt": f'{head}    """{words}"""\n',
            "declaration": head,
            "canonical_solution": right,
            "buggy_solution": buggy,
            "bug_type": "value misuse",
            "failure_symptoms": "incorrect output",
            "entry_point": name,
            "signature": signature,
            "docstring": words,
            "instruction": f"Write a Python function `{signature}` to solve the following problem:\n{words}",
            "test": f"def check(candidate):\n{test}\ncheck({name})\n",
            "example_test": "",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "humanevalpack_python.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
