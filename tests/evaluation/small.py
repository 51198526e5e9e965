"""A benchmark of three problems of our own in Python and C++, as files, and evaluations of it made of given answers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.rows import Row, data_digest, read_rows
from megatron_octo.evaluation.records import Kind, Sample, ScoredSample, Verdict

# name, Python body, C++ body, and values: argument and result
_PROBLEMS = (
    ("doubled", "    return 2 * x\n", "    return 2 * x;\n}\n", ((1, 2), (-3, -6))),
    ("squared", "    y = x * x\n    return y\n", "    int y = x * x;\n    return y;\n}\n", ((2, 4), (-3, 9))),
    ("halved", "    return x // 2\n", "    return x / 2;\n}\n", ((4, 2), (9, 4))),
)
_BUGS = {"2 * x": "3 * x", "x * x": "x + x", "x // 2": "x // 3", "x / 2": "x / 3"}


def write_benchmark(folder: Path) -> Path:
    """Write the rows to a folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, title in (("python", "Python"), ("cpp", "CPP")):
        lines = [json.dumps(_record(language, title, number)) for number in range(len(_PROBLEMS))]
        (folder / f"humanevalpack_{language}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _record(language: str, title: str, number: int) -> dict[str, Any]:
    name, python, cpp, values = _PROBLEMS[number]
    if language == "python":
        head, body = f"def {name}(x: int) -> int:\n", python
        prompt = f'{head}    """ The number {name}. """\n'
        checks = "".join(f"    assert {name}({given}) == {result}\n" for given, result in values)
        test = f"\n\ndef check({name}):\n{checks}\ncheck({name})"
    else:
        head, body = f"#include<vector>\nusing namespace std;\nint {name}(int x){{\n", cpp
        prompt = f"/*\nThe number {name}.\n*/\n{head}"
        checks = "".join(f"    assert ({name}({given}) == {result});\n" for given, result in values)
        test = f"#undef NDEBUG\n#include<assert.h>\nint main(){{\n{checks}}}\n"
    buggy = body
    for right, wrong in _BUGS.items():
        buggy = buggy.replace(right, wrong)
    return {
        "task_id": f"{title}/{number}",
        "prompt": prompt,
        "declaration": head,
        "canonical_solution": body,
        "buggy_solution": buggy,
        "bug_type": "value misuse",
        "failure_symptoms": "incorrect output",
        "entry_point": name,
        "signature": head.strip(),
        "docstring": f"The number {name}.",
        "instruction": f"Write a function {name}.",
        "test": test,
        "example_test": "",
    }


def write_samples(
    output: Path, data: Path, answer: Callable[[Row, int], str], tasks: Mapping[str, int], language: str = "python"
) -> None:
    """Write samples as generation does.

    Args:
        output: directory of the evaluation.
        data: of :func:`write_benchmark`.
        answer: the text for a row and a number.
        tasks: number of samples per problem, by scenario.
        language: of the rows.
    """
    rows = read_rows(data, language)
    values = {"prompt": "octocoder", "stop": [], f"data.{language}": data_digest(rows)}
    records.open_header(output, "generation", values)
    for scenario, count in tasks.items():
        name = f"humaneval{scenario}-{language}"
        lines = records.Lines(records.samples_path(output, name))
        for row in rows:
            for number in range(count):
                sample = Sample(name, row.number, number, answer(row, number), 5, "eos", "digest")
                lines.append(records.sample_record(sample))
        lines.close()


def canonical(row: Row, number: int) -> str:
    """Answer rightly."""
    return "\n" + row.canonical_solution


def scored(problem: int, number: int, kind: Kind = Kind.PASSED, **changed: Any) -> ScoredSample:
    """Return a verdict without running a program."""
    solution = "" if kind is Kind.PASSED else f"def f(): return {number}\n"
    values = {"program": f"p{problem}.{number}", "toolchain": "t", "cut": "none", "solution": solution} | changed
    return ScoredSample(problem, number, verdict=Verdict(kind, 2, "words"), **values)


def write_verdicts(output: Path, task: str, verdicts: list[ScoredSample]) -> None:
    """Write verdicts as scoring does."""
    records.open_header(output, "scoring", {"compat": False})
    lines = records.Lines(records.verdicts_path(output, task))
    for each in verdicts:
        lines.append(records.verdict_record(each))
    lines.close()
