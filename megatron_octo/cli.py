"""``octo COMMAND ...`` is ``python -m megatron_octo.COMMAND ...``, with fewer letters.

Nothing here imports a command before it is asked for: ``octo --help`` answers at once.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from megatron_octo import __version__
from megatron_octo.common.errors import OctoError, run_command

COMMANDS = {
    "preprocess": "jsonl to an indexed dataset of tokens, with the loss mask beside them",
    "inspect": "what a dataset holds, or how a run stands, with a page of plots",
    "plan": "memory, time and disk that a recipe needs on a cluster, and layouts that fit",
    "train": "train a recipe, or resume it where it stopped",
    "submit": "a recipe's stages under SLURM, queued again until it is finished; how runs stand",
    "convert": "to and from Hugging Face, and the proof that both compute the same",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: octo COMMAND ...", "", *lines, "", "octo COMMAND --help says more."])


def _run(argv: Sequence[str]) -> int | None:
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
    command = importlib.import_module(f"megatron_octo.{name}")
    return command.main(rest)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    arguments = sys.argv[1:] if argv is None else argv
    run_command(lambda: _run(arguments))


if __name__ == "__main__":
    main()
