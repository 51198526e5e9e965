"""Folders of killed processes are removed, those of living ones are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_octo.evaluation.sandbox import folders


def test_folders_of_killed_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    mine = folders.make_folder("compile")
    dead = tmp_path / f"octo-compile-{child.pid}-abc"
    other = tmp_path / "octo-mine-abc"
    for path in (dead, other):
        path.mkdir()
    (dead / "program").write_text("left")
    folders.sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, other.name])
