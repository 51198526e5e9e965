"""``python -m megatron_octo.commits COMMAND ...``: commit data, from histories of git repositories to rows."""

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from megatron_octo.common.errors import run_command

# Name: module below megatron_octo.commits with ``add_parser(subparsers)`` and ``main(arguments)``, and the purpose.
COMMANDS = {
    "history": ("history.command", "rows of the commits of git repositories, local or remote"),
    "languages": ("tables.languages_command", "set the language by the file's name"),
    "optout": ("tables.optout_command", "drop rows of owners that opted out"),
    "filter": ("filters.command", "apply CommitPackFT's rules"),
    "bots": ("tables.bots_command", "drop commits that programs wrote"),
    "dedup": ("clean.dedup_command", "drop duplicates and near duplicates"),
    "decontaminate": ("clean.decontaminate_command", "drop rows that hold texts of benchmarks"),
    "scrub": ("scrub.command", "replace e-mail addresses, keys, passwords and IP addresses"),
    "oasst": ("sources.oasst_command", "pairs of conversations, without refusals"),
    "selfinstruct": ("sources.selfinstruct_command", "pairs of instructions and answers"),
    "xp3x": ("sources.xp3x_command", "rows drawn from the code files of xP3x"),
    "pairs": ("sources.pairs_command", "pairs of commits, by a template"),
    "mix": ("sources.mix_command", "one data set of pairs from several sources"),
    "licences": ("tables.licences_command", "set and check the licence"),
}


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the command line.

    Args:
        only: the command whose options are wanted; those of the others are not imported. None for all.
    """
    parser = argparse.ArgumentParser(prog="python -m megatron_octo.commits", description=__doc__)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        if only in (name, None):
            _module(module).add_parser(parsers)
        else:
            parsers.add_parser(name, help=purpose)
    return parser


def _module(name: str) -> "_Command":
    module: _Command = importlib.import_module(f"megatron_octo.commits.{name}")  # type: ignore[assignment]
    return module


class _Command:
    """A module of :data:`COMMANDS`."""

    def add_parser(self, parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        """Add the command's own parser."""

    def main(self, arguments: argparse.Namespace) -> int:
        """Run the command; returns its exit code."""
        raise NotImplementedError


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in COMMANDS else ""
    arguments = build_parser(name).parse_args(words)
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return _module(COMMANDS[name][0]).main(arguments)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
