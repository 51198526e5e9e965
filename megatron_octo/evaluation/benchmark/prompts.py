"""Prompts: how instruction, context and the head of the function become the text that a model continues."""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from pydantic import Field, ValidationError, field_validator

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.common.strict_yaml import did_you_mean, explain, key_lines, parse_yaml, read_text
from megatron_octo.config.model import Section
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import EXTENSIONS, Task

CHAT = "chat"
Scenario = Literal["fixtests", "fixdocs", "explaindescribe", "explainsynthesize", "synthesize"]  # tasks.SCENARIOS
_FIELDS = ("input", "instruction", "context", "base", "file")
_FIELD = re.compile("{(" + "|".join(_FIELDS) + ")}")
_FOLDER = "megatron_octo.evaluation.benchmark"
_KNOWN = f"keys and fields of a prompt ({', '.join('{' + name + '}' for name in _FIELDS)}): docs/evaluation.md"


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer with a chat template."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return the conversation as text."""


def _all_scenarios() -> list[Scenario]:
    return list(get_args(Scenario))


class _Template(Section):
    multiline = frozenset({"template", "fix_template", "stop"})

    template: str
    """Text with fields in braces."""
    fix_template: str | None = None
    """The same for fixtests and fixdocs, where they differ."""
    context_first: bool = False
    """Whether `{input}` is context and instruction; otherwise instruction and context."""
    strip_input: bool = False
    """Whether `{input}` loses blanks around it."""
    stop: list[str] = Field(default_factory=list)
    """Texts that end an answer."""
    scenarios: list[Scenario] = Field(default_factory=_all_scenarios, min_length=1)
    """Scenarios that it can ask."""

    @field_validator("template", "fix_template")
    @classmethod
    def _fields(cls, value: str | None) -> str | None:
        """Refuse a template that asks nothing."""
        if value is not None and not any(f"{{{name}}}" in value for name in ("base", "input", "instruction")):
            raise ValueError("a template that asks nothing: it has none of {base}, {input}, {instruction}")
        return value


@dataclass(frozen=True)
class Prompt:
    """A template of a name.

    Attributes:
        digest: of all that decides its text, except the tokenizer's chat template.
        stop: texts that end an answer, besides the model's end tokens.
        scenarios: of the tasks that it can ask.
        chat: whether the tokenizer's chat template makes the text.
    """

    name: str
    digest: str
    stop: tuple[str, ...]
    scenarios: tuple[str, ...]
    chat: bool
    _parts: _Template

    def stop_words(self, task: Task) -> tuple[str, ...]:
        """Return the texts that end an answer to a task, besides the model's end tokens."""
        self.check(task)
        return self.stop

    def check(self, task: Task) -> None:
        """Refuse a task that this prompt cannot ask.

        Raises:
            OctoError: the scenario is not among its own.
        """
        if task.scenario not in self.scenarios:
            raise OctoError(
                f"prompt {self.name} cannot ask {task.name}",
                where="--prompt",
                hint=f"it asks {', '.join(self.scenarios)}; octocoder and instruct ask all",
            )

    def text(self, task: Task, row: Row, description: str | None = None, tokenizer: ChatTokenizer | None = None) -> str:
        """Return the text that the model continues.

        Args:
            task: of the row.
            row: the problem.
            description: for explainsynthesize: what explaindescribe answered.
            tokenizer: for ``chat``: the model's own.

        Raises:
            OctoError: the prompt cannot ask the task, or the tokenizer has no chat template.
        """
        self.check(task)
        instruction, context = task.instruction(row), task.context(row, description)
        first, second = (context, instruction) if self._parts.context_first else (instruction, context)
        joined = instruction if context is None else f"{first}\n{second}"
        if self._parts.strip_input:
            joined = joined.strip()
        base = "" if task.describes else task.base(row)
        if self.chat:
            return _chat(joined, base, tokenizer)
        values = {
            "input": joined,
            "instruction": instruction,
            "context": context or "",
            "base": base,
            "file": f"{row.entry_point}.{EXTENSIONS[row.language]}",
        }
        template = self._parts.template
        if task.is_fix and self._parts.fix_template is not None:
            template = self._parts.fix_template
        return _FIELD.sub(lambda match: values[match[1]], template).strip()


def prompt_names() -> list[str]:
    """Return the names of the prompts that come with the library."""
    folder = resources.files(_FOLDER) / "prompts"
    return sorted([CHAT, *(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))])


def load_prompt(name: str) -> Prompt:
    """Return the prompt of a name, or of a YAML file of one's own.

    Raises:
        OctoError: no such prompt, or a file that is none; names file and key.
    """
    if name == CHAT:
        return _prompt(CHAT, 'template: "{base}"', CHAT)
    if name.endswith((".yaml", ".yml")):
        try:
            return _prompt(Path(name).stem, read_text(Path(name)), name)
        except OSError as error:
            raise OctoError(f"cannot be read: {error.strerror}", where=name, hint=_KNOWN) from None
    if name not in prompt_names():
        near = did_you_mean(name, prompt_names())
        hint = f"did you mean {near}? " if near else ""
        raise OctoError(
            f"unknown prompt {name!r}", where="--prompt", hint=f"{hint}{', '.join(prompt_names())}, or a YAML file"
        )
    text = resources.files(_FOLDER).joinpath("prompts", f"{name}.yaml").read_text(encoding="utf-8")
    return _prompt(name, text, name)


def _prompt(name: str, text: str, where: str) -> Prompt:
    content = parse_yaml(text, where)
    if not isinstance(content, dict):
        raise OctoError("bad prompt: a mapping with 'template' is wanted", where=where, hint=_KNOWN)
    try:
        parts = _Template.model_validate(content)
    except ValidationError as error:
        raise explain(error, _Template, "prompt", where=where, lines=key_lines(text, where), hint=_KNOWN) from None
    about = {"chat": where == CHAT, **parts.model_dump()}
    return Prompt(name, digest_json(about), tuple(parts.stop), tuple(parts.scenarios), where == CHAT, parts)


def _chat(text: str, base: str, tokenizer: ChatTokenizer | None) -> str:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise OctoError("the model's tokenizer has no chat template", where="--prompt chat", hint="name a prompt")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return f"{asked}{base.strip()}"
