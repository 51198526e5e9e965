"""Recipes of commit data: YAML with stages, whose options are those of the commands."""

import argparse
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import parse_yaml, read_text

SOURCES = ("history", "query")  # they begin with repositories or tables, not with rows
# Their parts are independent of each other, so several processes on several machines may make them.
SHARED = ("languages", "licences", "optout", "bots", "filter", "decontaminate", "scrub")
_SET_HERE = ("output", "inputs", "help")
Parsers = Callable[[str], argparse.ArgumentParser]


@dataclass(frozen=True)
class Step:
    """A stage of a recipe.

    Attributes:
        number: from 1.
        name: of the command.
        words: its options.
        inputs: rows that it takes; empty for a source.
        output: its folder.
    """

    number: int
    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    output: Path

    @property
    def command(self) -> list[str]:
        """Return the words of the command line behind ``python -m megatron_octo.commits``."""
        inputs = ["--", *self.inputs] if self.inputs else []
        return [self.name, f"--output={self.output}", *self.words, *inputs]

    @property
    def record(self) -> Path:
        """Return where it is noted what the output was made of."""
        return self.output.with_name(f"{self.output.name}.step.json")


@dataclass(frozen=True)
class Recipe:
    """A chain.

    Attributes:
        path: of the file.
        output: the folder in which every stage has one of its own.
        jobs: processes of a stage; None for each command's default.
        steps: the stages in order.
    """

    path: Path
    output: Path
    jobs: int | None
    steps: tuple[Step, ...]


def read_recipe(path: str | Path, parser_of: Parsers) -> Recipe:
    """Read a recipe; relative paths in it count from the current directory, as on a command line.

    The last stage leaves dropped rows out, unless it says ``drop: false``.

    Args:
        path: the file.
        parser_of: returns the parser of a command.

    Raises:
        OctoError: a key, a stage or an option is unknown, or of the wrong kind; the file is named.
    """
    path = Path(path)
    content = parse_yaml(read_text(path), path, fractions=True)
    if not isinstance(content, dict):
        raise OctoError("not a recipe of commit data", where=path, hint="output: FOLDER, and stages: a list")
    _known(content, ("output", "inputs", "jobs", "stages"), "key", str(path))
    output, jobs, stages = content.get("output"), content.get("jobs"), content.get("stages")
    if not isinstance(output, str) or not output:
        raise OctoError("no output", where=path, hint="output: a folder for the outputs of all stages")
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise OctoError(f"jobs: {jobs!r}, not a number of processes", where=path)
    if not isinstance(stages, list) or not stages:
        raise OctoError(
            "no stages", where=path, hint="stages: a list such as [{history: {repositories: [.]}}, languages]"
        )
    inputs = tuple(map(str, _list(content.get("inputs", []))))
    steps: list[Step] = []
    for number, entry in enumerate(stages, 1):
        where = f"{path}, stage {number}"
        name, options = _entry(entry, where)
        before = inputs if not steps else (str(steps[-1].output),)
        source = name in SOURCES
        if source and (steps or inputs):
            raise OctoError(f"{name} takes no rows", where=where, hint="it can only be the first stage, without inputs")
        if not source and not before:
            raise OctoError(
                f"{name} needs rows", where=where, hint=f"inputs: files of rows, or begin with {SOURCES[0]}"
            )
        parser = parser_of(name)
        if number == len(stages) and any(action.dest == "drop" for action in parser._actions):
            options = {"drop": True} | dict(options)  # what is trained on holds no dropped rows
        words = words_of(parser, options, where)
        folder = Path(output) / f"{number:02d}-{name}"
        steps.append(Step(number, name, tuple(words), () if source else before, folder))
    return Recipe(path, Path(output), jobs, tuple(steps))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _known(names: Mapping[str, Any] | Sequence[str], known: Sequence[str], what: str, where: str) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise OctoError(f"unknown {what} {name!r}", where=where, hint=hint)


def _entry(entry: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, options),) = entry.items()
        if isinstance(name, str) and (options is None or isinstance(options, dict)):
            return name, options or {}
    raise OctoError("not a stage", where=where, hint="write a command's name, or name: {option: value}")


def words_of(parser: argparse.ArgumentParser, options: Mapping[str, Any], where: str) -> list[str]:
    """Return the words of a command line for options that YAML gives.

    ``true`` sets a flag; a list repeats an option, or gives it several words where it takes them.

    Raises:
        OctoError: an option is unknown, or its value is of the wrong kind.
    """
    actions = {
        next((word[2:] for word in action.option_strings if word.startswith("--")), action.dest): action
        for action in parser._actions
        if action.dest not in _SET_HERE
    }
    spelled = {str(name).replace("_", "-"): value for name, value in options.items()}
    known = [name.replace("_", "-") for name in actions]
    _known(spelled, known, "option", where)
    words: list[str] = []
    last: list[str] = []
    for name, action in zip(known, actions.values()):
        if name not in spelled:
            continue
        value = spelled[name]
        if isinstance(value, dict) or value is None:
            raise OctoError(f"option {name!r}: {value!r}", where=where, hint="a text, a number, true or a list")
        if action.nargs == 0:
            if not isinstance(value, bool):
                raise OctoError(f"option {name!r}: {value!r}, not true or false", where=where)
            words += [f"--{name}"] * value
        elif not action.option_strings:
            last += map(str, _list(value))
        elif isinstance(value, list) and action.nargs in ("+", "*"):
            words += [f"--{name}", *map(str, value)]
        elif isinstance(value, list) and not isinstance(action, argparse._AppendAction):
            raise OctoError(f"option {name!r} takes one value", where=where)
        else:
            words += [word for each in _list(value) for word in (f"--{name}={each}",)]
    return [*words, *(["--", *last] if last else [])]
