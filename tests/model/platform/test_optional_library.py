"""A library is used if it is installed and computes the right thing; otherwise the reason is reported."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import pytest

from megatron_octo.model.platform.optional_library import Library

LIBRARY = Library("some-attention", "some", "2.0")


def test_reasons_against_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RuntimeError("no engine\nand much more")

    def why_not(
        measure: Callable[[], float] = lambda: 0.004, obstacle: Callable[[], str | None] = lambda: None
    ) -> str | None:
        return LIBRARY.examine(obstacle, measure)

    assert not LIBRARY.installed and "not installed (pip install -e .[some])" in str(why_not())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.99")
    assert LIBRARY.installed and why_not(obstacle=lambda: "the GPU is too old") == "the GPU is too old"
    complaint = "some-attention 1.99 (2.0 is needed) failed: RuntimeError: no engine"
    assert why_not(obstacle=fail) == complaint == why_not(fail)
    for error, text in ((0.5, "0.5"), (float("nan"), "nan")):
        expected = f"some-attention 1.99 computes something else here: relative error {text}"
        assert why_not(lambda error=error: error) == expected
    assert why_not() is None
