"""Digests of prompts and of cut answers of row 0.

``python -m tests.evaluation.benchmark.golden`` renews the file from ../shared/data.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, digest_json
from megatron_octo.evaluation.benchmark.cutting import cut, description
from megatron_octo.evaluation.benchmark.prompts import load_prompt, prompt_names
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task, all_tasks
from tests.evaluation.benchmark.examples import published

FILE = Path(__file__).parent / "golden.json"
_CHAT = "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{% endfor %}<assistant>"


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a chat template."""
    inner = Tokenizer(WordLevel({"x": 0}, unk_token="x"))
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=_CHAT)


def computed() -> dict[str, Any]:
    """Compute the content of the file."""
    tokenizer = chat_tokenizer()
    prompts: dict[str, dict[str, str]] = {}
    for name in prompt_names():
        prompt = load_prompt(name)
        texts = prompts.setdefault(name, {"digest": prompt.digest})
        for task in all_tasks():
            try:
                text = prompt.text(task, published(task.language)[0], "A description.", tokenizer)
            except OctoError:
                continue
            texts[task.name] = digest_bytes(text.encode())
    return {"prompts": prompts, "cuts": {task.name: digest_json(_cuts(task)) for task in all_tasks()}}


def answers(row: Row) -> list[str]:
    """Return answers of many kinds to a row."""
    code, buggy = row.canonical_solution, row.buggy_solution
    return [
        "\n" + code,
        "\n" + buggy,
        "\n" + code[: len(code) // 2],
        "\n" + code + "\n" + row.test,
        "\n" + code + "\n" + row.prompt + code,
        f"\nHere it is:\n```\n{row.declaration}{code}```\nIt works.",
        "\n" + code.rstrip() + "<|endoftext|>more",
        "\nNo code.",
        "",
    ]


def _cuts(task: Task) -> list[Any]:
    row = published(task.language)[0]
    if task.describes:
        return [description(row, text, compat=compat) for text in answers(row) for compat in (False, True)]
    made = [cut(task, row, text, compat=compat) for text in answers(row) for compat in (False, True)]
    return [[one.solution, one.what] for one in made]


if __name__ == "__main__":
    FILE.write_text(json.dumps(computed(), indent=1) + "\n")
