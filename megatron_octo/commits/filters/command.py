"""``commits filter``: CommitPackFT's rules; each dropped row names the rule and what it found.

``--rules octopack`` decides as the original scripts do, with their mistakes. ``--rules fixed`` decides as they were
meant. The subject of a kept row is the cleaned one.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from megatron_octo.commits.filters.first_rules import verb_of
from megatron_octo.commits.filters.models import MODELS
from megatron_octo.commits.filters.rule_sets import MODES, TOKENS, Mode, rules
from megatron_octo.commits.filters.second_rules import version_bump
from megatron_octo.commits.filters.subject import Look, word_lists
from megatron_octo.commits.rows import Kind, Row, each_kept, run_stage
from megatron_octo.commits.rows.arguments import add_common
from megatron_octo.commits.rows.tally import said
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file, digest_json

SIGNALS: dict[str, Kind] = {
    "old_characters": "int",
    "new_characters": "int",
    "subject_words": "int",
    "verb": "text",
    "changed_lines": "int",
    "tokens": "int",
}


@dataclass(frozen=True)
class Settings:
    """What the decisions follow from.

    Attributes:
        mode: whose rules.
        model: whose limits.
        tokenizer: of the rule on tokens; None leaves it out.
        digest: of the tokenizer.
        words: digest of the word lists.
        seed: of the draw among version bumps.
    """

    mode: Mode = "fixed"
    model: str = "starcoder"
    tokenizer: str | None = None
    digest: str | None = None
    words: str = ""
    seed: int = 0


class Filter:
    """The rules of some settings, for rows."""

    def __init__(self, settings: Settings) -> None:
        """Open the tokenizer, if the settings name one.

        Raises:
            OctoError: it is missing or unusable.
        """
        self._model = MODELS[settings.model]
        self._languages = self._model.languages
        self._steps = [(each.name, each.test) for each in rules(settings.mode) if each.name != TOKENS]
        place = next(place for place, each in enumerate(rules(settings.mode)) if each.name == TOKENS)
        if settings.tokenizer:
            from megatron_octo.commits.filters.tokens import TokenRule

            self._steps.insert(place, (TOKENS, TokenRule(settings.tokenizer, self._model, settings.mode)))
        if settings.seed:
            self._steps = [(name, _seeded(test, settings.seed, name)) for name, test in self._steps]

    def apply(self, row: Row) -> Row:
        """Drop the row by the first rule that refuses it; else set the model's columns."""
        look = Look.of(row)
        signals = row.signals
        signals["old_characters"], signals["new_characters"] = len(look.old), len(look.new)
        signals["subject_words"] = len(look.words)
        if self._languages is not None and look.language not in self._languages:
            return row.mark("language", look.language)
        for name, test in self._steps:
            if (why := test(look)) is not None:
                return row.mark(name, why)
        row.subject = look.subject
        signals["verb"] = verb_of(look.lower)
        signals["changed_lines"] = changed_lines(look.old, look.new)
        self._model.finish(row)
        return row


def _seeded(test: Callable[[Look], str | None], seed: int, name: str) -> Callable[[Look], str | None]:
    return (lambda look: version_bump(look, seed)) if name == "version_bump" else test


def changed_lines(old: str, new: str) -> int:
    """Return the number of distinct lines that only one of two texts holds."""
    return len(set(old.splitlines()) ^ set(new.splitlines()))


def filter_rows(rows: Iterable[Row], settings: Settings) -> Iterator[Row]:
    """Apply the rules to all rows that are not dropped."""
    return each_kept(_filter(settings).apply, rows)


_filter = functools.cache(Filter)  # a stage reads a file in many pieces; the tokenizer is opened once per process


def add_parser(parsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command's options."""
    form = argparse.RawDescriptionHelpFormatter
    listed = "\n".join(f"  {each.name:21} {each.purpose}" for each in rules("fixed"))
    text = f"the rules, in order:\n{listed}"
    parser = parsers.add_parser(
        "filter", help="CommitPackFT's rules", description=__doc__, epilog=text, formatter_class=form
    )
    add_common(parser)
    add = parser.add_argument
    add("--rules", choices=MODES, default="fixed", help="the original's decisions, or what was meant (%(default)s)")
    add("--model", choices=sorted(MODELS), default="starcoder", help="languages, tokens and columns (%(default)s)")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--tokenizer", metavar="FILE", help="the model's tokenizer.json, for the rule on tokens")
    which.add_argument("--no-tokens", action="store_true", help="leave the rule on tokens out")
    add("--seed", type=int, default=0, help="of the draw that keeps one in ten version bumps (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    digest = digest_file(arguments.tokenizer) if arguments.tokenizer else None
    if not 0 <= arguments.seed < 2**64:
        raise OctoError(f"--seed {arguments.seed}: from 0 to 2^64 - 1", where="command line")
    settings = Settings(
        arguments.rules, arguments.model, arguments.tokenizer, digest, digest_json(word_lists()), arguments.seed
    )
    _filter(settings)  # an unusable tokenizer fails before the work
    more: dict[str, Kind] = {"inputs": "text", "targets": "text"} if MODELS[settings.model].pairs else {}
    found = run_stage(
        "filter",
        arguments.inputs,
        arguments.output,
        filter_rows,
        settings=settings,
        jobs=arguments.jobs,
        signals=SIGNALS | more,
        leave_out=arguments.drop,
    )
    print(said(found, arguments.output))
    return 0
