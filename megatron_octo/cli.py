# PYTHON_ARGCOMPLETE_OK
"""``octo COMMAND ...``: short form of ``python -m megatron_octo.COMMAND ...``.

Imports a command only when it is called, so that ``octo --help`` answers at once.
"""

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError, run_command

COMMANDS = {
    "preprocess": "jsonl to an indexed data set of tokens, with the loss mask beside them",
    "inspect": "contents of a data set, or state of a run, with a page of plots",
    "plan": "memory, time and disk that a recipe needs on a cluster, and layouts that fit",
    "check": "find what would stop a recipe's run, before torch, GPUs and the queue",
    "train": "train a recipe, or resume it from its newest checkpoint",
    "submit": "run a recipe's stages under SLURM until they are finished; show the state of runs",
    "convert": "to and from Hugging Face, with a proof that both compute the same",
    "evaluate": "score a model on HumanEvalPack, in a sandbox",
    "commits": "histories of git repositories as rows of commits",
    "schema": "JSON schema of recipes, for editors",
}
_FOLDERS = {"commits": "commits.__main__"}  # commands that are rooms


def command_module(name: str) -> ModuleType:
    """Import the module of a command."""
    return importlib.import_module(f"megatron_octo.{_FOLDERS.get(name, name)}")


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    more = 'octo COMMAND --help describes a command. Completion: eval "$(register-python-argcomplete octo)"'
    return "\n".join(["usage: octo COMMAND ...", "", *lines, "", more])


def complete() -> None:
    """Answer the shell's request for completions: of the command, or of its own options."""
    import argcomplete

    words = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])].split(" ")
    if len(words) > 2 and words[1] in COMMANDS:
        os.environ["_ARGCOMPLETE"] = str(int(os.environ["_ARGCOMPLETE"]) + 1)  # words before the command's own
        parser = command_module(words[1]).build_parser()
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("command", choices=list(COMMANDS))
    argcomplete.autocomplete(parser)


def _run(argv: Sequence[str]) -> int | None:
    if "_ARGCOMPLETE" in os.environ:
        complete()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"megatron_octo {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise OctoError(f"unknown command {name!r}", hint=f"{hint}the commands: {', '.join(COMMANDS)}")
    code: int | None = command_module(name).main(rest)
    return code


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the arguments name, and exit with its code."""
    arguments = sys.argv[1:] if argv is None else argv
    run_command(lambda: _run(arguments))


if __name__ == "__main__":
    main()
