"""Rows of our own for the compiled languages, the bodies that solve them, and languages and sandboxes to judge with."""

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path

from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.languages.compiled import CompiledLanguage
from megatron_octo.evaluation.languages.cpp import Cpp
from megatron_octo.evaluation.languages.go import Go
from megatron_octo.evaluation.languages.rust import Rust
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import Level, Number, probe_level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.sandbox.supervisor import cache_root

CLASSES: dict[str, Callable[[Path], CompiledLanguage]] = {"cpp": Cpp, "go": Go, "rust": Rust}
SECOND = Limits(cpu_s=1, wall_s=30)
_NOBODY = 54321  # a user without files, groups or rights

DECLARATIONS = {
    "cpp": "#include<string>\n#include<vector>\nusing namespace std;\n#include<stdlib.h>\nstring greet(string name){\n",
    "go": "\nfunc Greet(name string) string {\n",
    "rust": "\nuse std::{cmp::max, collections::HashMap};\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\n"
    "fn greet(name: &str) -> String{\n",
}
SIGNATURES = {
    "cpp": "string greet(string name)",
    "go": "func Greet(name string) string",
    "rust": "greet(name: &str) -> String",
}
TESTS = {
    "cpp": "#undef NDEBUG\n#include<assert.h>\nint main(){\n"
    '    assert (greet("a") == "hello a");\n    assert (greet("{(") == "hello {(");\n}\n',
    "go": "func TestGreet(t *testing.T) {\n    assert := assert.New(t)\n"
    '    assert.Equal("hello a", Greet("a"))\n    assert.Equal(true, Greet("{(") == "hello {(")\n}\n',
    "rust": "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_greet() {\n"
    '        assert_eq!(greet("a"), "hello a".to_string());\n'
    '        assert!(greet("{(") == String::from("hello {("));\n'
    '        let all = vec![greet("b"), greet("c")];\n'
    '        assert_eq!(all, vec!["hello b", "hello c"]);\n    }\n\n}\n',
}
_SETUP = 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n'
RIGHT = {
    "cpp": '    return "hello " + name;\n}\n',
    "go": '    return "hello " + name\n}\n',
    "rust": '    format!("hello {}", name)\n}\n',
}
WRONG = {
    "cpp": '    return "HELLO " + name;\n}\n',
    "go": '    return "HELLO " + name\n}\n',
    "rust": '    format!("HELLO {}", name)\n}\n',
}


def row(language: str, **fields: str) -> Row:
    """Return the row of a language; ``fields`` replace its own."""
    texts = {
        "task_id": f"{language}/0",
        "prompt": DECLARATIONS[language],
        "declaration": DECLARATIONS[language],
        "canonical_solution": RIGHT[language],
        "buggy_solution": WRONG[language],
        "bug_type": "",
        "failure_symptoms": "",
        "entry_point": "greet",
        "signature": SIGNATURES[language],
        "docstring": "",
        "instruction": "",
        "test": TESTS[language],
        "example_test": "",
        "imports": "",
        "test_setup": _SETUP if language == "go" else "",
    }
    return Row(language, 0, **{**texts, **fields})


@functools.cache
def judge_of(language: str) -> CompiledLanguage:
    """Return the language, which builds what it needs only once a process."""
    return CLASSES[language](cache_root())


def judge(language: str, code: str, limits: Limits = SECOND, level: Level | None = None, **fields: str) -> Verdict:
    """Return the verdict on a body (and what follows it) of the row's function."""
    judging = judge_of(language)
    given = row(language, **fields)
    with Sandbox(level or probe_level(), slot=7) as box:
        return judging.judge(judging.program(given, given.declaration + code), box, limits)


def kinds_as_user(language: str, codes: list[str]) -> list[Kind]:
    """Return the kinds of verdicts in a process that has given up root's rights."""
    judge_of(language).toolchain()
    judge(language, RIGHT[language])  # imports whatever is imported late, while its files can be read
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            os.environ["TMPDIR"] = "/tmp"
            level = Level(Number.NAMESPACES)
            found = [judge(language, code, level=level).kind for code in codes]
            os.write(write, pickle.dumps([str(kind) for kind in found]))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return [Kind(kind) for kind in pickle.loads(answer)]
