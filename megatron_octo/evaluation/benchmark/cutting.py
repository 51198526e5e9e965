"""Where an answer ends: the first whole function at the head of the problem, and what that function needs.

What a model writes behind its function (tests, ``main``, prints, the next problem, prose) is left out. Functions, types
and constants behind it stay if the function uses them. Answers in fences, and answers that write the whole function
anew instead of continuing it, are taken as what they are. :func:`cut` names each of these effects.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_octo.evaluation.benchmark import compat as compat_rules
from megatron_octo.evaluation.benchmark.finishing import finished as finished
from megatron_octo.evaluation.benchmark.heads import Head, head_of, members_of
from megatron_octo.evaluation.benchmark.items import Item, is_function, items, needed
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.syntax import (
    block_end,
    body_end,
    bound,
    has_code,
    names,
    parse,
    without_surrogates,
)
from megatron_octo.evaluation.benchmark.tasks import Task

END_OF_TEXT = "<|endoftext|>"
_CLASS = b"class Solution {"
_FENCE = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Cut:
    """What remains of an answer.

    Attributes:
        head: what ``code`` continues: the head of the function, or what stands before it if the answer is the whole
            function.
        code: from the first newline on.
        effects: in order: ``stop word`` (cut at one), ``fence`` (taken out of a Markdown block), ``whole`` (function
            written anew), ``syntax`` (what the function does not need is left out), ``closed`` (Java's class is
            closed), ``open`` (the function never ends), ``empty`` (no code).
    """

    head: str
    code: str
    effects: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """Effects joined with a plus sign, or ``none``."""
        return "+".join(self.effects) or "none"

    @property
    def solution(self) -> str:
        """Text for the language: head and code."""
        return self.head + self.code


def cut(task: Task, row: Row, text: str, *, compat: bool = False, stop: Sequence[str] = ()) -> Cut:
    """Cut an answer of a task whose answers are code.

    Args:
        task: of the row.
        row: the problem.
        text: what was generated after the prompt.
        compat: as the original harness does, with its faults.
        stop: the prompt's own stop words.
    """
    head = (row.prompt if task.scenario == "explainsynthesize" else task.base(row)).rstrip()
    if compat:
        code = compat_rules.post_process(row.language, text, stop)
        return Cut(head, code, () if code == text.rstrip() else ("stop word",))
    whole = text
    for word in (END_OF_TEXT, *stop):
        text = text.partition(word)[0]
    stopped = ("stop word",) if text != whole else ()
    made = _best(row.language, head_of(row.language, head), without_surrogates(text).rstrip())
    return Cut(made.head, made.code, stopped + made.effects)


def description(row: Row, text: str, *, compat: bool = False, stop: Sequence[str] = ()) -> str:
    """Return the description in an answer: at most as long as the docstring, without the code that it quotes.

    Args:
        row: the problem that was described.
        text: what was generated after the prompt.
        compat: also cut at the language's stop words, as the original harness does.
        stop: the prompt's own stop words.
    """
    words = compat_rules.stop_words(row.language, stop) if compat else [END_OF_TEXT, *stop]
    text = text.strip()[: len(row.docstring)]
    for word in words:
        text = text.partition(word)[0]
    return compat_rules.without_code(text.rstrip(), row.canonical_solution)


def _best(language: str, head: Head, text: str) -> Cut:
    """Return the first that holds a whole function: the text as it goes on, blocks in it, or the function anew."""
    direct = _continued(language, head, text)
    if direct is not None and _is_clean(language, head, direct):
        return direct
    blocks = [match[1].rstrip() for match in _FENCE.finditer(text)]
    for block in blocks:
        if (made := _anew(language, head, block)) is not None:
            return Cut(made.head, made.code, ("fence", *made.effects))
    for block in blocks:
        made = _continued(language, head, "\n" + block)
        if made is not None and _is_clean(language, head, made):
            return Cut(made.head, made.code, ("fence", *made.effects))
    if not blocks and (made := _anew(language, head, text)) is not None:
        return made
    if direct is not None:
        return direct
    return Cut(head.text, text, ("open",)) if text.strip() and language != "python" else Cut(head.text, "", ("empty",))


def _is_clean(language: str, head: Head, made: Cut) -> bool:
    start = len(head.text.encode())
    source = made.solution.encode()
    stack = [parse(language, source)]
    while stack:
        node = stack.pop()
        if node.end_byte <= start or not node.has_error:
            continue
        if (node.is_error or node.is_missing) and node.start_byte >= start:
            return False
        if node.is_error:  # it began in the head: the text does not continue it
            return False
        stack.extend(node.children)
    return True


def _continued(language: str, head: Head, text: str) -> Cut | None:
    """Cut a text that continues the head; None if the function does not end, or has no code."""
    start, source = len(head.text.encode()), (head.text + text).encode()
    if language == "python":
        end = block_end(source, start)
        if not has_code(language, source[:end], start):
            return None
    else:
        found = body_end(language, source, start)
        if found is None:
            return None
        end = found
    used = head.used | names(parse(language, source[:end])) - bound(language, source[:end], start)
    taken = head.taken | {head.name}
    rest, effects = _rest(language, source[end:], used, taken)
    kept = (source[start:end].rstrip() if effects else source[start:end]) + rest
    return Cut(head.text, kept.decode(errors="replace"), effects)


def _rest(language: str, rest: bytes, used: frozenset[str], taken: frozenset[str]) -> tuple[bytes, tuple[str, ...]]:
    """Return what stays of the text behind a function, and the effects."""
    if language != "java":
        return _kept(language, rest, b"", used, taken)
    inside = _CLASS + rest
    end = body_end("java", inside, len(_CLASS))
    if end is None:
        members, effects = _kept("java", inside + b"\n}", _CLASS, used, taken)
        return (members + b"\n}" if effects else rest + b"\n}"), (*effects, "closed")
    members, first = _kept("java", inside[:end], _CLASS, used, taken)
    classes, second = _kept("java", inside[end:], b"", used | names(parse("java", members)), taken)
    members = members + b"\n}" if first else inside[len(_CLASS) : end]
    return members + classes, tuple(dict.fromkeys(first + second))


def _kept(
    language: str, text: bytes, before: bytes, used: frozenset[str] | set[str], taken: frozenset[str]
) -> tuple[bytes, tuple[str, ...]]:
    """Keep the items of a text that are needed; the whole text if it holds nothing else.

    Args:
        language: of the text.
        text: items; Java's members begin with ``before``, which opens their class.
        before: see ``text``; not returned.
        used: names that the function uses.
        taken: names that are declared before.
    """
    root = parse(language, text)
    nodes = root.children
    if before and root.children:
        body = root.children[0].child_by_field_name("body")
        nodes = body.named_children if body is not None else root.children[:1]
    found = items(language, nodes, stop=True)
    kept = needed([item for item in found.found if not item.always], used, taken)
    if not found.other and len(kept) == len(found.found):
        return text[len(before) :], ()
    return b"".join(b"\n\n" + text[item.start : item.end] for item in kept), ("syntax",)


def _anew(language: str, head: Head, text: str) -> Cut | None:
    """Take a text that holds the function anew; None if it does not."""
    source = text.encode()
    outside = list(items(language, parse(language, source).children, stop=False).found)
    inside: list[Item] = outside
    if language == "java":
        for item in outside:
            members = members_of(item)
            if any(head.name in member.declared and is_function(member) for member in members):
                inside, outside = members, [other for other in outside if other is not item]
                break
        else:
            outside = [item for item in outside if item.always]
    if not any(head.name in item.declared and is_function(item) for item in inside):
        return None
    first = needed([item for item in inside if not item.always or language != "java"], {head.name}, head.taken)
    code = b"".join(source[item.start : item.end] + b"\n\n" for item in first).rstrip()
    before = head.before
    if language == "java":
        used = {name for item in first for name in item.used}
        second = needed(outside, used, head.taken)
        imports = b"".join(source[item.start : item.end] + b"\n" for item in second if item.always)
        types = b"".join(b"\n\n" + source[item.start : item.end] for item in second if not item.always)
        before, code = imports.decode(errors="replace") + before, code + b"\n}" + types
    return Cut(before, code.decode(errors="replace"), ("whole",))
