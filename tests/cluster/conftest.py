"""Stand-ins for SLURM's commands."""

from collections.abc import Callable
from pathlib import Path

import pytest

Answers = Callable[..., None]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Sets what SLURM's commands print; None: the command fails. ``asked`` has a line a call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answer(**texts: str | None) -> None:
        for name, text in texts.items():
            (folder / f"{name}.txt").write_text(text or "")
            end = f"cat {folder}/{name}.txt" if text is not None else f"echo {name} is away >&2; exit 1"
            (folder / name).write_text(f"#!/bin/sh\necho {name} $* >>{tmp_path}/asked\n{end}\n")
            (folder / name).chmod(0o755)

    answer(sbatch="", scancel="", squeue="", sacct="", scontrol="", sacctmgr="", sinfo="")
    return answer
