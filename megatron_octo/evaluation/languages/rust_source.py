"""Rust source: the solution in one file, its test in another that calls assertions no solution can replace."""

import re
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.languages.compiled import NAME, NONCE
from megatron_octo.evaluation.languages.masking import masked

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

VERSION = 1  # of the rules in this file; part of the cache's key
# Included, not joined: nothing that a solution leaves open reaches the test.
_ROOT = f"""mod solution {{
    include!("/w/solution.rs");
    #[path = "/w/test.rs"]
    pub mod {NAME};
}}
fn main() {{
    solution::{NAME}::{NAME}_run()
}}
"""
_EMPTY_MAIN = re.compile(r"\A\s*fn\s+main\s*\(\s*\)\s*\{\s*\}[ \t]*\n?")
_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod\s+(\w+)\s*\{")
_TEST = re.compile(r"#\[test\](?:\s|//[^\n]*\n|/\*.*?\*/)*(?:pub\s+)?fn\s+(\w+)", re.DOTALL)
_MACRO = re.compile(r"(?<![\w:])(assert|assert_eq|assert_ne|format|panic|print|println|unreachable|vec)!(?=\s*[(\[{])")
_STANDARD = {
    "Any": "any",
    "Box": "boxed",
    "BTreeMap": "collections",
    "HashMap": "collections",
    "HashSet": "collections",
    "Option": "option",
    "Result": "result",
    "String": "string",
    "Vec": "vec",
}
_NAMES = """
    String|Vec|Option|Some|None|Result|Ok|Err|Box|HashMap|HashSet|Any|PartialEq|Eq|Clone|Copy|Debug|ToString|Into|From|
    Iterator|Default|bool|char|str|f32|f64|i8|i16|i32|i64|i128|isize|u8|u16|u32|u64|u128|usize|std|core|alloc
""".replace("\n", "").replace(" ", "")
_FORBIDDEN = (
    (re.compile(r"\b(?:no_mangle|export_name|link_section|link_name|linkage)\b"), "a symbol of another library"),
    (re.compile(r"\b(?:asm|global_asm|naked_asm)\s*!"), "assembler"),
    (re.compile(r"\b(?:include|include_str|include_bytes)\s*!"), "it includes files"),
    (re.compile(r"\bmacro_rules\s*!\s*(?:assert|assert_eq|assert_ne|vec|panic)\b"), "its own assertions"),
    (re.compile(r"\bextern\s+crate\b[^;]*\bas\s+(?:std|core|alloc)\b"), "another standard library"),
    (re.compile(rf"\b(?:struct|enum|union|trait|type|mod|use\b[^;]*\bas)\s+(?:{_NAMES})\b"), "its own standard types"),
    (re.compile(r"#\s*\[\s*path\b"), "it includes files"),
    (re.compile(r"\bmod\s+\w+\s*;"), "it includes files"),
)


def assemble(row: "Row", solution: str) -> dict[str, str]:
    """Return the files of a program: ``main.rs``, ``solution.rs`` and ``test.rs``, each a module of the one before.

    Raises:
        OctoError: the row's test has no module with a test.
    """
    solution = _EMPTY_MAIN.sub("", solution)
    test, code = row.test, masked("rust", row.test)
    module, names = _MODULE.search(code), _TEST.findall(code)
    last = code.rfind("}")
    if module is None or not names or last < 0:
        raise OctoError("the test of this row has no module of tests", where=row.task_id)
    calls = " ".join(f"{name}();" for name in names)
    finish = f'\npub fn {NAME}_run() {{ {calls} ::{NAME}::passed("{NONCE}") }}\n'
    inside = test[module.end() : last]
    inside = re.sub(r"#\[test\]", lambda match: " " * len(match.group()), inside)
    inside = f"{_with_our_macros(inside)}{finish}"
    # What the prelude offers cannot be hidden by the solution's names: two globs that differ are an error.
    head = "#[allow(unused_imports)] use ::std::prelude::rust_2021::*;"
    file = f"{test[: module.start()]}{head}{inside}{test[last + 1 :]}\n{_pinned(row)}"
    return {
        "main.rs": _ROOT,
        "solution.rs": f"{solution}\n",
        "test.rs": file,
    }


def _with_our_macros(test: str) -> str:
    code, pieces, done = masked("rust", test), [], 0
    for match in _MACRO.finditer(code):
        pieces += [test[done : match.start()], f"::{NAME}::"]
        done = match.start()
    return "".join([*pieces, test[done:]])


def _pinned(row: "Row") -> str:
    """Return a constant that holds the entry point as a function of standard types; empty for other types."""
    match = re.fullmatch(r"(\w+)\s*\((.*)\)\s*(->.*)?", row.signature.strip(), re.DOTALL)
    if match is None:
        return ""
    name, parameters, result = match.group(1), match.group(2), match.group(3) or ""
    types = set(re.findall(r"\b[A-Z]\w*", f"{parameters} {result}"))
    if not types <= set(_STANDARD):
        return ""
    parameters = re.sub(r"\bmut\s+(?=\w+\s*:)", "", parameters)
    uses = " ".join(f"use ::std::{_STANDARD[each]}::{each};" for each in sorted(types))
    return f"mod {NAME}_types {{ {uses} const _: fn({parameters}) {result} = super::super::{name}; }}\n"


def tampering(solution: str) -> str | None:
    """Return the trick that a solution uses against its test; None if none is seen."""
    code = masked("rust", solution)
    return next((words for pattern, words in _FORBIDDEN if pattern.search(code)), None)
