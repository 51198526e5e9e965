"""Tests of doctor: it names what is there and what is missing."""

import shutil
from pathlib import Path

import pytest

from megatron_octo.evaluation.records import LANGUAGES
from megatron_octo.evaluation.scoring.doctor import examine


def test_it_names_the_sandbox_and_each_language() -> None:
    lines, _ = examine(None)
    assert lines[0].startswith("sandbox: level ")
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in LANGUAGES)


def test_missing_packages_are_one_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without node and javac on the path, their packages are named."""
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    lines, good = examine(None)
    assert not good
    assert any(line.startswith("js: missing: apt: nodejs") for line in lines)
    (command,) = [line for line in lines if line.startswith("apt install")]
    assert "nodejs" in command and "default-jdk-headless" in command
