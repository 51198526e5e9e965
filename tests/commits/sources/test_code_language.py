"""Languages of code fences."""

import pytest

from megatron_octo.commits.sources.code_language import code_language, language_named


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Look:\n```python\nx\n```", "Python"),
        ("```PY\nx```", "Python"),
        ("``` c++ \nx```", "C++"),
        ("```terminal\nls```\n```python\n", "Shell"),
        ("```\nx\n```\n```python\n", None),
        ("```import os\n```", None),
        ("```a.py\n```", None),
        ("```html<\n```", None),
        ("```nosuch\n```", None),
        ("```python3" + "x" * 20 + "\n", None),
        ("no code", None),
        ("", None),
        ("```pyy", "Python"),  # no line behind it: the last character is lost
    ],
)
def test_first_fence(text: str, language: str | None) -> None:
    assert code_language(text) == language


def test_names_of_users() -> None:
    assert [language_named(each) for each in ("python", " C++", "js", "klingon")] == [
        "Python",
        "C++",
        "JavaScript",
        None,
    ]
