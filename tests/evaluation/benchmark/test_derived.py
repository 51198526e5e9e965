"""Tests of derived fields."""

from typing import Any

import pytest

from megatron_octo.evaluation.benchmark.derived import packed

BUG = {"buggy_solution": "bug"}
KIND = {"bug_type": "value misuse", "failure_symptoms": "incorrect output"}


def _packed(language: str, name: str, prompt: str, **more: str) -> dict[str, Any]:
    source = {"task_id": "x/0", "prompt": prompt, "declaration": prompt, "test": "", **more}
    return packed(language, source, BUG, KIND, name)


@pytest.mark.parametrize(
    ("language", "name", "prompt", "wanted"),
    [
        ("python", "f_x", 'def f_x(a) -> int:\n    """ One.\n\n  Two.\n"""\n', ("f_x", "f_x(a) -> int", "One.\nTwo.")),
        ("python", "f", "def g(): pass\ndef f():\n    '''One.'''\n", ("f", "f()", "One.")),
        ("cpp", "f_x", "/*\nOne.\n Two.\n*/\nint g(){ }\nint f_x(int a){\n", ("f_x", "int f_x(int a)", "One.\nTwo.")),
        ("cpp", "f", "// Old.\nint g();\n// One.\n// Two.\nint f(){\n", ("f", "int f()", "One.\nTwo.")),
        ("java", "f_x", "class S {\n  /** One.\n  */\n  int fX() {\n", ("fX", "int fX()", "One.")),
        ("js", "f_x", "/* *One. */\nconst fX = (a) => {\n", ("fX", "const fX = (a)", "*One.")),
        ("go", "f_x", "// Old.\nvar x\n// One.\n// Two.\nfunc FX(a int) {\n", ("FX", "func FX(a int)", "One.\nTwo.")),
        ("java", "words_string", "/* words_string */\nint x() {\n", ("words_string", "int x()", "words_string")),
    ],
)  # fmt: skip
def test_fields(language: str, name: str, prompt: str, wanted: tuple[str, str, str]) -> None:
    row = _packed(language, name, prompt)
    assert (row["entry_point"], row["signature"], row["docstring"]) == wanted
    assert row["instruction"].endswith(f" function `{wanted[1]}` to solve the following problem:\n{wanted[2]}")
    assert list(row)[-7:] == [
        "buggy_solution", "bug_type", "failure_symptoms", "entry_point", "signature", "docstring", "instruction",
    ]  # fmt: skip


def test_rust_prompt_has_the_comment_before_the_function() -> None:
    declaration = "use a;\nfn g() {}\npub fn f_x(a: i32) -> i32{\n"
    row = _packed("rust", "f_x", '\n/* One.\n  "\n Two. */\n', declaration=declaration)
    assert row["prompt"] == 'fn main(){}\nuse a;\nfn g() {}\n/* One.\n  "\n Two. */\npub fn f_x(a: i32) -> i32{\n'
    assert (row["signature"], row["docstring"]) == ("f_x(a: i32) -> i32", "One.\nTwo. */")


def test_python_loses_its_metadata() -> None:
    row = _packed(
        "python",
        "f",
        'def f():\n  """x"""\n',
        test="METADATA = {}\nMETADATA = {\n    'author': 'jt',\n    'dataset': 'test'\n}x",
    )
    assert row["test"] == "\nx"


@pytest.mark.parametrize("language", ["python", "cpp", "java", "js"])
def test_refuses_what_has_no_docstring(language: str) -> None:
    with pytest.raises(ValueError, match="no "):
        _packed(language, "f", "f\n")
