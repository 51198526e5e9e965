"""Programs as the original harness assembles them, with its faults.

Imports are found by substring, and what one answer removes from the head is missing for those that follow.
"""

from collections.abc import Sequence

from megatron_octo.evaluation.benchmark.rows import Row

_PYTHON = (
    *map(
        "import {}".format, ("math", "re", "sys", "copy", "datetime", "itertools", "collections", "heapq", "statistics")
    ),
    *map("import {}".format, ("functools", "hashlib", "numpy", "numpy as np", "string")),
    *map("from {} import *".format, ("typing", "collections")),
)
_CPP = (
    "stdlib.h", "algorithm", "cmath", "math.h", "numeric", "stdio.h", "vector", "set", "map", "queue", "stack", "list",
    "deque", "boost/any.hpp", "string", "climits", "cstring", "iostream", "sstream", "fstream",
)  # fmt: skip
_GO = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
_MAIN = "fn main()"
_EMPTY_JAVA = "public class Main {\n    }"


def programs(row: Row, solutions: Sequence[str]) -> list[str]:
    """Return the program of each answer to one problem, with its test.

    Args:
        row: the problem, as published.
        solutions: of the answers in their order, on which Go's programs depend.
    """
    if row.language == "go":
        made = _go(row, solutions)
    elif row.language == "rust":
        made = [_rust(row, solution) for solution in solutions]
    else:
        made = [_other(row.language, solution) for solution in solutions]
    return [f"{solution}\n\n{row.test}" for solution in made]


def _other(language: str, solution: str) -> str:
    if language == "python":
        return ("\n".join(_PYTHON) + "\n" + solution).strip()
    if language == "cpp":
        head = "\n".join(["using namespace std;", *(f"#include<{name}>" for name in _CPP)])
        return (head + "\n" + solution.partition("int main")[0]).strip()
    return solution.replace(_EMPTY_JAVA, "").strip() if language == "java" else solution


def _go(row: Row, solutions: Sequence[str]) -> list[str]:
    head, made = row.test_setup + "\n", []
    for solution in solutions:
        for line in head.split("\n"):
            quoted = _bare(line)
            if quoted.startswith('"') and quoted in solution:
                head = head.replace(quoted, "")  # and stays so for the answers that follow
        source = f"{head}{solution}\n\n{row.test}"
        added = {f'"{path.rpartition("/")[2]}"' for path in _GO if f'"{path}"' not in source and _is_used(path, source)}
        block = "import (\n" + "\n".join(f"    {name}" for name in sorted(added)) + "\n)\n" if added else ""
        if "package main" in head:
            solution = solution.replace("package main", "")
        made.append(head + block + solution)
    return made


def _bare(line: str) -> str:
    for part in ("import", "(", ")"):
        line = line.replace(part, "")
    return line.strip()


def _is_used(path: str, source: str) -> bool:
    name = path.rpartition("/")[2] + "."
    return any(name in line and not line.strip().startswith("//") for line in source.split("\n"))


def _rust(row: Row, solution: str) -> str:
    head = "" if _MAIN in solution else f"{_MAIN}{{}}\n"
    for line in map(str.strip, row.declaration.split("\n")):
        if line not in solution and not (line.startswith("fn") and line.partition("(")[0] in solution):
            head += line + "\n"
    return head + _MAIN.join(solution.split(_MAIN)[:2])
