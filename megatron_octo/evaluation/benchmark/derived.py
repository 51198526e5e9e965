"""Fields of HumanEvalPack that follow from those of HumanEval-X: names, signatures, docstrings and instructions."""

import re
from collections.abc import Callable
from typing import Any

from megatron_octo.evaluation.benchmark.tasks import TITLES

_NO_METADATA = ("METADATA = {\n    'author': 'jt',\n    'dataset': 'test'\n}", "METADATA = {}")
_COMMENT = re.compile(r"/\*|\*/")
_TRIPLE = re.compile(r'"{3}|\'{3}')
_RENAMED = {
    "get_max_triples": "get_matrix_triples",
    "digitsum": "digitSum",
    "closestInteger": "closest_integer",
    "wordsString": "words_string",
    "minsubarraysum": "minSubarraySum",
    "minpath": "minPath",
    "fileNameCheck": "filenameCheck",
    "specialfilter": "specialFilter",
    "sortedListSum": "listSort",
    "strongestExtension": "StrongestExtension",
    "max_element": "maximum",
    "minSubArraySum": "min_sub_array_sum",
    "minPath": "min_path",
    "specialFilter": "special_filter",
    "Strongest_Extension": "strongest_extension",
}


def packed(
    language: str, source: dict[str, Any], bug: dict[str, Any], kind: dict[str, Any], name: str
) -> dict[str, Any]:
    """Return a row of HumanEvalPack, with its keys in the published order.

    Args:
        language: of the row.
        source: row of HumanEval-X.
        bug: its ``buggy_solution``.
        kind: ``bug_type`` and ``failure_symptoms``, which all languages share.
        name: of the function in Python.

    Raises:
        ValueError: the row has no signature or docstring where one is expected; KeyError: a field is missing.
    """
    row = dict(source)
    row["buggy_solution"] = bug["buggy_solution"]
    row["bug_type"], row["failure_symptoms"] = kind["bug_type"], kind["failure_symptoms"]
    row["entry_point"] = _entry_point(language, name, row["declaration"] + row["prompt"])
    if language == "python":
        for text in _NO_METADATA:
            row["test"] = row["test"].replace(text, "")
    row["signature"], row["docstring"] = _RULES[language](row)
    row["instruction"] = (
        f"Write a {TITLES[language]} function `{row['signature']}` to solve the following problem:\n{row['docstring']}"
    )
    if language == "rust":
        row["prompt"] = _rust_prompt(row["prompt"], row["declaration"])
    return row


def _entry_point(language: str, name: str, code: str) -> str:
    if language in ("go", "java", "js"):
        name = name.replace("_", " ").title().replace(" ", "")
        name = name if language == "go" else name[0].lower() + name[1:]
    return name if name in code else _RENAMED.get(name, name)


def _joined(lines: list[str]) -> str:
    return "\n".join(stripped for line in lines if (stripped := line.strip()))


def _lines(text: str) -> list[str]:
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def _python(row: dict[str, Any]) -> tuple[str, str]:
    place = row["prompt"].rfind("def ")
    parts = _TRIPLE.split(row["prompt"][place:])
    if place < 0 or len(parts) != 3:
        raise ValueError("no function with one docstring in prompt")
    return parts[0][4:].strip().strip(":"), _joined(parts[1].split("\n"))


def _block_comment(text: str, strip: str = "") -> str:
    parts = _COMMENT.split(text)
    if len(parts) < 3:
        raise ValueError("no comment /* */ in prompt")
    return _joined((parts[-2].strip(strip) if strip else parts[-2]).split("\n"))


def _line_comments(lines: list[str]) -> str:
    found: list[str] = []
    for line in reversed(lines):
        if line.startswith("//"):
            found.append(line.strip("/"))
        elif found:
            break
    return _joined(found[::-1])


def _cpp(row: dict[str, Any]) -> tuple[str, str]:
    lines = _lines(row["prompt"])
    heads = [line for line in lines if row["entry_point"] in line and line.endswith("{")]
    if not heads:
        raise ValueError(f"no function {row['entry_point']} in prompt")
    in_lines = len(_COMMENT.split(row["prompt"])) < 3
    return heads[-1].strip("{"), _line_comments(lines) if in_lines else _block_comment(row["prompt"], "*")


def _java(row: dict[str, Any]) -> tuple[str, str]:
    return _lines(row["prompt"])[-1].strip("{").strip(), _block_comment(row["prompt"], "*")


def _js(row: dict[str, Any]) -> tuple[str, str]:
    return _lines(row["prompt"])[-1].strip("{").strip().strip("=>").strip(), _block_comment(row["prompt"])


def _go(row: dict[str, Any]) -> tuple[str, str]:
    lines = _lines(row["prompt"])
    return lines[-1].strip("{").strip(), _line_comments(lines)


def _rust(row: dict[str, Any]) -> tuple[str, str]:
    found: list[str] = []
    for line in row["prompt"].split("\n"):
        for mark in ("/*", "*/"):
            if line.strip().startswith(mark):
                line = line.strip("/*")
                break
        found.append("" if line.strip() == '"' else line)
    return row["declaration"].rpartition("fn ")[2].partition("{")[0].strip(), _joined(found)


def _rust_prompt(comment: str, declaration: str) -> str:
    place = max(declaration.rfind("\nfn "), declaration.rfind("\npub fn "))
    before, function = declaration[:place], declaration[place:].lstrip()
    return f"fn main(){{}}\n{before}\n{comment.strip()}\n{function}"


_RULES: dict[str, Callable[[dict[str, Any]], tuple[str, str]]] = {
    "python": _python, "cpp": _cpp, "java": _java, "js": _js, "go": _go, "rust": _rust,
}  # fmt: skip
