"""``octo``: lists its commands at once, hands the rest to them, and knows a typing error when it sees one."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from megatron_octo import __version__, cli

LIBRARY = Path(cli.__file__).parent


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    code, out, _ = call(capsys, *argv)
    assert code == 0
    for name, purpose in cli.COMMANDS.items():
        assert any(line.split() == [name, *purpose.split()] for line in out.splitlines())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"megatron_octo {__version__}\n")


def test_every_command_is_a_module() -> None:
    assert [name for name in cli.COMMANDS if not (LIBRARY / f"{name}.py").exists()] == ["commits"]
    assert (LIBRARY / "commits" / "__main__.py").exists()


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "trian", "recipe.yaml")
    assert code == 2
    assert "unknown command 'trian'" in err and "did you mean 'train'?" in err


def test_unlike_anything_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "xyzzy")
    assert code == 2
    assert "did you mean" not in err and "preprocess" in err


@pytest.mark.parametrize("result,code", [(None, 0), (0, 0), (75, 75)])
def test_the_rest_goes_to_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], result: int | None, code: int
) -> None:
    seen: list[list[str]] = []
    command = types.ModuleType("megatron_octo.train")
    command.main = lambda argv: seen.append(argv) or result  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "megatron_octo.train", command)
    assert call(capsys, "train", "r.yaml", "train.steps=3", "--nproc", "2")[0] == code
    assert seen == [["r.yaml", "train.steps=3", "--nproc", "2"]]


def test_help_imports_nothing_heavy() -> None:
    """What keeps ``octo --help`` under 0.3 s; a time itself would fail on a busy machine."""
    heavy = ("torch", "numpy", "pydantic", "yaml", "transformers", "tokenizers", "megatron")
    script = (
        "import sys; from megatron_octo import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "line,expected",
    [
        ("octo tr", ["train"]),
        ("octo train --np", ["--nproc"]),
        ("octo convert from-", ["from-hf", "from-bigcode"]),
        ("octo trian --np", []),
    ],
)
def test_completion(tmp_path: Path, line: str, expected: list[str]) -> None:
    answer = tmp_path / "completions"
    environment = {
        **os.environ,
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
    }
    subprocess.run([sys.executable, "-m", "megatron_octo.cli"], env=environment, capture_output=True)
    assert [word.strip() for word in answer.read_text().splitlines()] == expected


def test_every_command_has_a_parser_for_completion() -> None:
    for name in cli.COMMANDS:
        assert cli.command_module(name).build_parser()


@pytest.mark.parametrize(
    "lines,message",
    [
        (
            ["sys.version_info = (3, 9, 1)", "sys.version = '3.9.1 (x)'"],
            "needs Python 3.12 or newer, this is 3.9.1",
        ),
        (
            ["sys.argv = ['-m']", "sys.path = [p for p in sys.path if 'site-' not in p]"],
            "is not installed in this Python: missing pydantic, yaml",
        ),
    ],
    ids=["old Python", "not installed"],
)
def test_a_start_that_cannot_work_says_why(lines: list[str], message: str) -> None:
    script = "\n".join(["import sys", f"sys.path.insert(0, {str(LIBRARY.parent)!r})", *lines, "import megatron_octo"])
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: megatron_octo {message}") and "make install" in done.stderr
