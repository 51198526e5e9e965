r"""Pairs of instruction and code from the Python standard library on this machine, for the demo.

Every function that has a docstring and a moderate length becomes one line
``{"inputs": "Question: Write a Python function ...\n\nAnswer:\n", "outputs": "def ..."}``,
in OctoCoder's question-and-answer template: the question holds the docstring's first line, the answer the rest of the
function. The same Python version gives the same file.

    python demo/make_data.py demo/out/pairs.jsonl
"""

import argparse
import ast
import json
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from megatron_octo.common.errors import OctoError, run_command
from megatron_octo.common.files import atomic_write

LIMIT = 5000  # pairs
CHARACTERS = range(60, 2000)  # of a function: no stubs, no giants
# Test suites, installed packages, and modules that some distributions do not ship with Python.
SKIPPED = {
    *("test", "tests", "site-packages", "dist-packages", "lib2to3", "__pycache__"),
    *("idlelib", "tkinter", "turtle.py", "turtledemo"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files(library: Path) -> list[Path]:
    """Return the library's sources in a fixed order."""
    names = (path.relative_to(library) for path in library.rglob("*.py"))
    return [library / name for name in sorted(names) if not SKIPPED.intersection(name.parts)]


def functions(path: Path) -> Iterator[tuple[Function, str]]:
    """Yield functions and methods with a docstring, each with its source without it, at the left margin."""
    try:
        text = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old modules hold invalid escapes
            tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, Function) and ast.get_docstring(node) and len(node.body) > 1:
            docstring, code = node.body[0], node.body[1]
            head, body = (
                lines[node.lineno - 1 : docstring.lineno - 1],
                lines[code.lineno - 1 : node.end_lineno],
            )
            source = textwrap.dedent("".join(head + body))
            # False for a one-liner, and where a string's lines begin left of the code.
            if source.startswith(("def ", "async def ")) and docstring.end_lineno != code.lineno:
                yield node, source


def instruction(node: Function) -> str | None:
    """Return a request for this function, or None if its docstring is too short for one."""
    purpose = (ast.get_docstring(node) or "").partition("\n")[0].strip()
    if len(purpose.split()) < 3:
        return None
    signature = f"{node.name}({ast.unparse(node.args)})"
    return f"Write a Python function `{signature}` to solve the following problem:\n{purpose}"


def pairs(library: Path) -> Iterator[dict[str, str]]:
    """Yield a row of inputs and outputs per function of moderate length."""
    seen: set[str] = set()
    for path in source_files(library):
        for node, source in functions(path):
            asked = instruction(node)
            if asked is None or len(source) not in CHARACTERS or source in seen:
                continue
            seen.add(source)
            yield {"inputs": f"Question: {asked}\n\nAnswer:\n", "outputs": source}


def main(argv: list[str] | None = None) -> int:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int, default=LIMIT, help="pairs at most (default: %(default)s)")
    parser.add_argument(
        "--library",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="sources (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    rows = list(pairs(arguments.library))
    if not rows:
        raise OctoError(
            "no Python sources with docstrings",
            where=arguments.library,
            hint="some distributions ship the standard library compiled: give --library DIR with .py files",
        )
    if len(rows) > arguments.limit:  # evenly from the whole library, not its first letters
        rows = [rows[i * len(rows) // arguments.limit] for i in range(arguments.limit)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.output, "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{arguments.output}: {len(rows):,} pairs from {arguments.library}")
    return 0


if __name__ == "__main__":
    run_command(main)
