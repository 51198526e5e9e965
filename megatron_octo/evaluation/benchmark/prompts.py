"""Prompts: how instruction, context and the head of the function become the text that a model continues."""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.common.strict_yaml import did_you_mean, parse_yaml, read_text
from megatron_octo.config.model import Section
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import EXTENSIONS, SCENARIOS, Task

CHAT = "chat"
_FIELDS = ("input", "instruction", "context", "base", "file")
_FIELD = re.compile("{(" + "|".join(_FIELDS) + ")}")
_FOLDER = "megatron_octo.evaluation.benchmark"


class ChatTokenizer(Protocol):
    """What is needed of a tokenizer with a chat template."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Return the conversation as text."""


class _Template(Section):
    template: str
    fix_template: str | None = None
    context_first: bool = False
    strip_input: bool = False
    stop: list[str] = Field(default_factory=list)
    scenarios: list[str] = Field(default_factory=lambda: list(SCENARIOS))


@dataclass(frozen=True)
class Prompt:
    """A template of a name.

    Attributes:
        digest: of all that decides its text, except the tokenizer's chat template.
        stop: texts that end an answer, besides the model's end tokens.
        scenarios: of the tasks that it can ask.
    """

    name: str
    digest: str
    stop: tuple[str, ...]
    scenarios: tuple[str, ...]
    _parts: _Template

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

    def text(
        self, task: Task, row: Row, description: str | None = None, tokenizer: ChatTokenizer | None = None
    ) -> str:
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
        if self.name == CHAT:
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
        return _prompt(CHAT, {"template": "{base}"}, CHAT)
    if name.endswith((".yaml", ".yml")):
        return _prompt(name, parse_yaml(read_text(Path(name)), name), name)
    if name not in prompt_names():
        near = did_you_mean(name, prompt_names())
        hint = f"did you mean {near}? " if near else ""
        raise OctoError(
            f"unknown prompt {name!r}", where="--prompt", hint=f"{hint}{', '.join(prompt_names())}, or a YAML file"
        )
    text = resources.files(_FOLDER).joinpath("prompts", f"{name}.yaml").read_text(encoding="utf-8")
    return _prompt(name, parse_yaml(text, name), name)


def _prompt(name: str, content: Any, where: str) -> Prompt:
    try:
        parts = _Template.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise OctoError(f"not a prompt: {key}: {first['msg']}", where=where, hint="docs/evaluation.md") from None
    for template in filter(None, (parts.template, parts.fix_template)):
        if "{base}" not in template:
            raise OctoError("not a prompt: a template without {base}", where=where)
    if unknown := [scenario for scenario in parts.scenarios if scenario not in SCENARIOS]:
        raise OctoError(f"unknown scenario {unknown[0]!r}", where=where, hint=", ".join(SCENARIOS))
    about = {"chat": name == CHAT, **parts.model_dump()}
    return Prompt(Path(name).stem, digest_json(about), tuple(parts.stop), tuple(parts.scenarios), parts)


def _chat(text: str, base: str, tokenizer: ChatTokenizer | None) -> str:
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise OctoError("the model's tokenizer has no chat template", where="--prompt chat", hint="name a prompt")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return f"{asked}{base.strip()}"
