"""Go source: a package of the solution, a program of its test, and imports that fit what is used."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.languages.compiled import NONCE
from megatron_octo.evaluation.languages.masking import end_of_block, masked

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

VERSION = 1  # of the rules in this file; part of the cache's key
# Imported where they are used, whether or not the program asks for them.
OFFERED = (
    *("bytes", "errors", "fmt", "math", "math/big", "math/bits", "math/rand", "crypto/md5", "regexp", "sort"),
    *("strconv", "strings", "time", "unicode", "unicode/utf8"),
)
# Imported where the program asks for them and uses them. No unsafe, no cgo, no reflection on the test's package.
ALLOWED = (
    *OFFERED,
    *("bufio", "cmp", "container/heap", "container/list", "container/ring", "context", "crypto/sha1"),
    *("crypto/sha256", "encoding/binary", "encoding/hex", "encoding/json", "hash/fnv", "io", "iter", "maps"),
    *("math/cmplx", "os", "reflect", "runtime", "slices", "strings", "sync", "sync/atomic", "syscall"),
    *("unicode/utf16",),
)
_FUNCTION = re.compile(r"^func[ \t]+(\w+)[ \t]*\(", re.MULTILINE)
_METHOD_OR_FUNCTION = r"^func[ \t]+{name}[ \t]*[\[(]"
_IMPORT = re.compile(r"^[ \t]*import\b[ \t]*(?:\([^)]*\)|[^\n;(]*;?)[ \t]*", re.MULTILINE)
_SPECIFICATION = re.compile(r"""([\w.]+)?[ \t]*["`]([\w./-]+)["`]""")
_PACKAGE = re.compile(r"^[ \t]*package[ \t]+\w+[ \t]*;?[ \t]*$", re.MULTILINE)
_TEST = re.compile(r"\bfunc[ \t]+(Test\w*)[ \t]*\([ \t]*\w+[ \t]+\*testing\.T[ \t]*\)")
_TESTS_OWN = {"testing": "testing", "assert": "assert"}
_LINKNAME = re.compile(r"^//[ \t]*(?:go:linkname|go:cgo_|export\b)|^[ \t]*import[ \t]+\"(?:unsafe|C)\"", re.MULTILINE)


def assemble(row: "Row", solution: str) -> dict[str, str]:
    """Return the files of a program: ``solution.go`` of a package ``solution``, ``main.go`` with the test.

    In packages of their own, nothing that a solution declares (names of types, constants and functions, ``assert``,
    ``TestMain``) has a meaning in the test, except for exported names, which the test imports.

    Raises:
        OctoError: the row's test has no function that a test could be.
    """
    solution, asked = without_imports(solution)
    solution += _missing_helpers(row.prompt, solution)
    found = {**{path.rpartition("/")[2]: path for path in OFFERED}, **asked}
    first = f"package solution\n{_block(used(solution, found))}{solution}\n"
    test, asked = without_imports(f"{row.test_setup}\n{row.test}")
    names = _TEST.findall(test)
    if not names:
        raise OctoError("the test of this row has no function TestNAME(t *testing.T)", where=row.task_id)
    found = {**{path.rpartition("/")[2]: path for path in OFFERED}, **asked, **_TESTS_OWN}
    calls = "\n".join(f"\t{name}(&testing.T{{}})" for name in names)
    main = f'func main() {{\n{calls}\n\tassert.Send(7, "{NONCE}")\n}}\n'
    imports = _block({**used(test, found), **_TESTS_OWN, ".": "solution"})
    return {"solution.go": first, "main.go": f"package main\n{imports}{test}\n{main}"}


def without_imports(text: str) -> tuple[str, dict[str, str]]:
    """Cut package clauses and imports; return the rest and what was imported, paths by name."""
    code, pieces, done = masked("go", text), [], 0
    asked: dict[str, str] = {}
    cuts = [*_IMPORT.finditer(code), *_PACKAGE.finditer(code)]
    for cut in sorted(cuts, key=lambda match: match.start()):
        if cut.start() < done:
            continue
        pieces.append(text[done : cut.start()])
        asked.update(_asked(text[cut.start() : cut.end()]))
        done = cut.end()
    return "".join([*pieces, text[done:]]), asked


def _asked(text: str) -> Iterator[tuple[str, str]]:
    for alias, path in _SPECIFICATION.findall(text):
        if path in ALLOWED and alias != "_":
            yield (path.rpartition("/")[2] if alias in ("", "import") else alias), path


def used(text: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return those of the known packages (paths by name) of which a text uses something."""
    code = masked("go", text)
    return {
        name: path for name, path in known.items() if name == "." or re.search(rf"(?<![\w.]){re.escape(name)}\.", code)
    }


def _block(imports: Mapping[str, str]) -> str:
    lines = [
        f'\t"{path}"' if path.rpartition("/")[2] == name else f'\t{name} "{path}"' for name, path in imports.items()
    ]
    return "\n".join(["import (", *sorted(lines), ")", ""]) if lines else ""


def _missing_helpers(prompt: str, solution: str) -> str:
    """Return the functions of the prompt, but for its last, that declaration and solution lack."""
    code = masked("go", prompt)
    found = []
    for match in list(_FUNCTION.finditer(code))[:-1]:
        end = end_of_block(code, match.end())
        there = re.search(_METHOD_OR_FUNCTION.format(name=match.group(1)), masked("go", solution), re.MULTILINE)
        if end is not None and not there:
            found.append(prompt[match.start() : end])
    return "\n" + "\n\n".join(found) + "\n" if found else ""


def tampering(sources: Mapping[str, str]) -> str | None:
    """Return the trick that a solution uses against its test; None if none is seen."""
    text = sources["solution.go"]
    if re.search(r"^//go:linkname\b", text, re.MULTILINE):
        return "a function of another package is replaced (go:linkname)"
    if re.search(r"^func[ \t]+TestMain\b", masked("go", text), re.MULTILINE):
        return "its own TestMain"
    return None
