"""Exit codes and messages: the user's mistakes have no traceback, ours keep it."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError, run_command


def code_of(command: Callable[[], int | None]) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        run_command(command)
    return stop.value.code


def throw(error: BaseException) -> Callable[[], int | None]:
    def command() -> int | None:
        raise error

    return command


def test_text_of_an_error() -> None:
    assert str(OctoError("what")) == "what"
    assert str(OctoError("what", where=Path("a/b"), hint="do")) == "what\n  where: a/b\n  hint:  do"


@pytest.mark.parametrize(("answer", "code"), [(None, 0), (0, 0), (75, 75), (1, 1)])
def test_codes_of_commands(answer: int | None, code: int) -> None:
    assert code_of(lambda: answer) == code


def test_the_users_mistake(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert code_of(throw(OctoError("bad", where="file:3", hint="fix it"))) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: bad\n  where: file:3\n  hint:  fix it\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "x", "/a/b"), "no such file or directory"),
        (PermissionError(errno.EACCES, "x", "/a/b"), "permission denied"),
        (IsADirectoryError(errno.EISDIR, "x", "/a/b"), "directory"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/a/b"), "directory"),
        (OSError(errno.EROFS, "x", "/a/b"), "read-only"),
        (OSError(errno.ENOSPC, "x", "/a/b"), "no space left"),
        (OSError(errno.EDQUOT, "x", "/a/b"), "no space left"),
    ],
)
def test_what_the_system_refuses(capsys: pytest.CaptureFixture[str], error: OSError, message: str) -> None:
    assert code_of(throw(error)) == 2
    text = capsys.readouterr().err
    assert message in text.lower()
    assert "where: /a/b" in text


def test_a_full_disk_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(throw(OSError(errno.ENOSPC, "x"))) == 2
    assert "where: the output directory" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("ours"), FileNotFoundError("ours"), OSError(errno.EIO, "disk")])
def test_our_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_command(throw(error))


def test_interrupt() -> None:
    assert code_of(throw(KeyboardInterrupt())) == 130


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID"])
def test_one_message_for_all_ranks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv(variable, "3")
    assert code_of(throw(OctoError("bad"))) == 2
    assert capsys.readouterr().err == ""
    monkeypatch.setenv(variable, "0")
    assert code_of(throw(OctoError("bad"))) == 2
    assert capsys.readouterr().err == "error: bad\n"


def test_errors_import_nothing_heavy() -> None:
    code = "import sys, megatron_octo.common.errors, megatron_octo.recipe.loading; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
