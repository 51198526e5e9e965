"""Tests of the original harness's programs, faults and all. They were compared with its own on 57,072 solutions."""

import pytest

from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.benchmark.compat_programs import programs
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.records import LANGUAGES
from tests.evaluation.benchmark.examples import needs_rows, row, unrepaired

SETUP = 'package main\n\nimport (\n    "testing"\n    "math"\n)\n'


def test_python_and_cpp() -> None:
    (made,) = programs(row("python"), ["\nx = 1\n"])
    assert made.startswith("import math\nimport re\n")
    assert made.endswith("from collections import *\n\nx = 1\n\ntest of doubled\n")
    assert made.count("import") == 16
    (made,) = programs(row("cpp"), ["int maintained;\nint main(){}"])
    assert made.startswith("using namespace std;\n#include<stdlib.h>\n")
    assert made.endswith("#include<fstream>\n\ntest of doubled\n")  # cut inside of a name


def test_java_and_js() -> None:
    assert programs(row("java"), [" x public class Main {\n    } y "]) == ["x  y\n\ntest of doubled\n"]
    assert programs(row("js"), [" x "]) == [" x \n\ntest of doubled\n"]


def test_rust() -> None:
    example = row("rust", declaration="use a::b;\nuse c;\nfn f(x: i32){\n")
    assert programs(example, ["use c;\nfn f(y: i32){ 1 }\nfn main() { 1 }\nfn main() {}"]) == [
        "use a::b;\nuse c;\nfn f(y: i32){ 1 }\nfn main() { 1 }\n\n\ntest of doubled\n"
    ]
    assert programs(example, ["1"])[0].startswith("fn main(){}\nuse a::b;\nuse c;\nfn f(x: i32){\n")


def test_go_forgets_imports_for_the_answers_that_follow() -> None:
    example = row("go", test_setup=SETUP)
    with_import = 'import (\n    "math"\n)\nfunc f() { math.Abs(1) }'
    first, second = programs(example, [with_import, "func f() { math.Abs(1) }"])
    assert first.count('"math"') == 1
    assert second.count('"math"') == 1 and 'import (\n    "math"\n)\nfunc' in second
    assert programs(example, ["func f() { math.Abs(1) }"])[0].count("import") == 1


def test_go_imports_by_the_last_part_of_a_path() -> None:
    example = row("go", test_setup=SETUP, test="")
    (made,) = programs(example, ["package main\nx := rand.Int() // strings.\n  // sort.Ints\n"])
    assert made.startswith(SETUP + '\nimport (\n    "rand"\n    "strings"\n)\n\nx := ')


@needs_rows
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_program_has_its_test(language: str) -> None:
    task = Task("fixdocs", language)
    for found in unrepaired(language):
        solution = task.solution(found, "\n" + found.canonical_solution.rstrip())
        made = programs(found, [solution, solution])
        assert all(program.endswith("\n\n" + found.test) for program in made)
        assert len({digest_json(program) for program in made}) == 1 or language == "go"
