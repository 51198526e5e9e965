"""First question and answer of conversations, and the phrases by which dialogues are left out."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from megatron_octo.commits.sources.code_language import code_language
from megatron_octo.commits.sources.pair import Pair
from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import parse_yaml, read_text

PHRASES = "phrases.yaml"
_QUESTION, _ANSWER = ("user", "prompter", "human"), ("assistant",)


@functools.cache
def phrases() -> tuple[str, ...]:
    """Return the phrases of OctoPack, in its order."""
    text = resources.files("megatron_octo.commits.sources").joinpath(PHRASES).read_text(encoding="utf-8")
    return tuple(parse_yaml(text, PHRASES, fractions=False)["phrases"])


def read_phrases(path: Path) -> tuple[str, ...]:
    """Read phrases of a file: ``.yaml`` with a list below ``phrases``, else one on a line.

    Raises:
        OctoError: it holds something else, or an empty phrase, which every text has.
    """
    text = read_text(path)
    if path.suffix not in (".yaml", ".yml"):
        return tuple(line for line in text.splitlines() if line.strip())
    found = parse_yaml(text, path, fractions=False)
    listed = found.get("phrases") if isinstance(found, dict) else found
    if not isinstance(listed, list) or not all(isinstance(each, str) and each for each in listed):
        raise OctoError("not a list of phrases", where=path, hint="write them below the key phrases, in quotes")
    return tuple(listed)


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    text: str
    id: str = ""


@dataclass(frozen=True)
class Settings:
    """What the pairs follow from.

    Attributes:
        phrases: a dialogue that has one of them in any case is dropped.
        languages: codes of natural languages; others are dropped. None: all stay.
        whole: whether phrases are looked for in the whole dialogue, not in the first question and answer alone.
        source: name in the column ``source``.
    """

    phrases: tuple[str, ...]
    languages: tuple[str, ...] | None = None
    whole: bool = True
    source: str = "oasst"


def messages_of(value: Any) -> tuple[list[Message], str | None]:
    """Return the messages of a conversation in order, and its natural language if it is stated.

    A list of messages, an object with ``messages``, or a tree with ``prompt`` and ``replies``, of which the replies
    of the best rank are followed; deleted ones are passed over.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, list):
        return [_message(each, "from", "text") for each in value], None
    if not isinstance(value, Mapping):
        raise ValueError("neither a list of messages nor an object")
    if "messages" in value:
        listed = value["messages"]
        if not isinstance(listed, list):
            raise ValueError("'messages' is not a list")
        return [_message(each, "role", "content") for each in listed], _text_or_none(value.get("lang"))
    if "prompt" in value and isinstance(value["prompt"], Mapping):
        prompt = value["prompt"]
        return list(_best(prompt)), _text_or_none(prompt.get("lang"))
    has = ", ".join(map(repr, value)) or "none"
    raise ValueError(f"no key 'messages', and no tree below 'prompt'; the row has {has}")


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _message(value: Any, role: str, text: str) -> Message:
    if not isinstance(value, Mapping):
        raise ValueError("a message is not an object")
    found = [value.get(role), value.get(text)]
    if not all(isinstance(each, str) for each in found):
        raise ValueError(f"a message without the texts {role!r} and {text!r}")
    number = value.get("message_id")
    return Message(str(found[0]), str(found[1]), "" if number is None else str(number))


def _best(node: Mapping[str, Any]) -> Iterator[Message]:
    best: Mapping[str, Any] | None = node
    while best is not None:
        yield _message(best, "role", "text")
        replies = best.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(each, Mapping) for each in replies):
            raise ValueError("'replies' is not a list of messages")
        there = [each for each in replies if not each.get("deleted")]
        best = min(there, key=_rank, default=None)


def _rank(reply: Mapping[str, Any]) -> float:
    rank = reply.get("rank")
    return float(rank) if isinstance(rank, int | float) else float("inf")


class Maker:
    """Makes a pair of a conversation."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._phrases = [(each.lower(), each) for each in dict.fromkeys(settings.phrases)]

    def __call__(self, value: Any) -> Pair:
        """Make a pair of the first question and answer, dropped where a rule says so.

        Raises:
            ValueError: the value is no conversation.
        """
        messages, natural = messages_of(value)
        settings, first = self._settings, messages[:2]
        texts = [each.text for each in first] + ["", ""]
        pair = Pair(texts[0], texts[1], first[0].id if first else "", settings.source)
        pair.lang = code_language(pair.outputs)
        pair.signals = {"natural_language": natural, "messages": len(messages)}
        if len(first) < 2 or first[0].role not in _QUESTION or first[1].role not in _ANSWER:
            roles = ", ".join(each.role for each in first)
            return pair.mark("no_answer", f"begins with {roles or 'nothing'}")
        if settings.languages is not None and natural not in settings.languages:
            return pair.mark("language", natural or "not stated")
        if found := self.phrase(messages if settings.whole else first):
            return pair.mark("phrase", found)
        return pair.checked()

    def phrase(self, messages: Sequence[Message]) -> str | None:
        """Return the first phrase that the joined messages have; None if they have none."""
        text = " ".join(each.text for each in messages).lower()
        return next((phrase for lowered, phrase in self._phrases if lowered in text), None)
