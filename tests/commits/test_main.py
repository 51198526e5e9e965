"""The table of commands, and what starts without its libraries."""

import importlib
import subprocess
import sys

import pytest

from megatron_octo.commits.__main__ import COMMANDS, build_parser, main


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_modules_with_a_parser(name: str) -> None:
    help_text = build_parser(name).format_help()
    assert name in help_text
    assert callable(importlib.import_module(f"megatron_octo.commits.{COMMANDS[name][0]}").main)


def test_the_list_of_commands_imports_none_of_them() -> None:
    program = (
        "import sys\n"
        "from megatron_octo.commits.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pyarrow', 'duckdb', 'megatron_octo.commits.rows'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert all(name in found.stdout for name in COMMANDS)


def test_a_wrong_command_is_refused() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["nothing"])
    assert stop.value.code == 2
