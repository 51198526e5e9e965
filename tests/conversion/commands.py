"""The command as a user runs it, in this process."""

import re
from pathlib import Path

import pytest

from megatron_octo.common.errors import run_command
from megatron_octo.convert import main


def run(capfd: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[object, str, str]:
    """Exit code, and what it wrote to its two streams. An exception that is no user's mistake comes out here."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: main([str(word) for word in argv]))
    said = capfd.readouterr()
    return stop.value.code, said.out, said.err


def assert_refused(capfd: pytest.CaptureFixture[str], words: str, *argv: str | Path) -> None:
    """Exit code 2 and a message; ``words`` is a pattern."""
    code, _, error = run(capfd, *argv)
    assert code == 2, error
    assert re.search(words, error), error
    assert "Traceback" not in error
