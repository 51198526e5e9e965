"""The commands of commit data by name; each is imported when it is called for."""

import argparse
import importlib
from collections.abc import Sequence

from megatron_octo.common.errors import OctoError

_PURPOSE = "Commit data, from histories of git repositories and tables to rows."
# Name: module below megatron_octo.commits with ``add_parser(subparsers)`` and ``main(arguments)``, and the purpose.
COMMANDS = {
    "history": ("history.command", "rows of the commits of git repositories, local or remote"),
    "run": ("chain.command", "run the stages of a recipe"),
    "report": ("report.command", "a page of what a chain did, and a data card"),
    "query": ("query.command", "commits from tables in BigQuery's shape, by SQL"),
    "scrape": ("scrape.command", "contents for rows that lack them, from their repositories"),
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
    parser = argparse.ArgumentParser(prog="python -m megatron_octo.commits", description=_PURPOSE)
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        if only in (name, None):
            _module(module).add_parser(parsers)
        else:
            parsers.add_parser(name, help=purpose)
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command.

    Raises:
        OctoError: there is none of this name.
    """
    if name not in COMMANDS or name in ("run", "report"):
        known = [each for each in COMMANDS if each not in ("run", "report")]
        raise OctoError(f"no command {name!r}", where="stages", hint=f"known: {', '.join(known)}")
    parsers = argparse.ArgumentParser().add_subparsers()
    _module(COMMANDS[name][0]).add_parser(parsers)
    return parsers.choices[name]


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


def call(words: Sequence[str]) -> int:
    """Run a command; returns its exit code."""
    name = words[0] if words and words[0] in COMMANDS else ""
    arguments = build_parser(name).parse_args(list(words))
    return _module(COMMANDS[arguments.command][0]).main(arguments)
