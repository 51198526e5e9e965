"""Tests of prompts."""

import json
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.prompts import load_prompt, prompt_names
from megatron_octo.evaluation.benchmark.tasks import Task, all_tasks
from tests.evaluation.benchmark.examples import needs_rows, row
from tests.evaluation.benchmark.golden import FILE, chat_tokenizer, computed


def test_names() -> None:
    known = ["continue", "instruct", "instructcodet5p", "octocoder", "octogeex", "santacoder", "starchat"]
    assert prompt_names() == ["chat", *known, "starcodercommit", "wizardcoder"]
    assert len({load_prompt(name).digest for name in prompt_names()}) == 10


def test_texts() -> None:
    example = row("js", declaration="head{\n", buggy_solution="bug}\n", test="test\n")
    fix, synthesize, describe = (Task(name, "js") for name in ("fixtests", "synthesize", "explaindescribe"))
    code, asked = "head{\nbug}\n\ntest\n", "Fix bugs in doubled."
    assert load_prompt("octocoder").text(fix, example) == f"Question: {asked}\n{code}\n\nAnswer:\nhead{{"
    assert load_prompt("octogeex").text(fix, example) == f"Question: {asked}\n{code.strip()}\n\nAnswer:\nhead{{"
    assert load_prompt("instruct").text(fix, example) == f"{code}\n{asked}\n\nhead{{"
    assert load_prompt("starcodercommit").text(fix, example) == (
        f"<commit_before>{code}<commit_msg>{asked}<commit_after>head{{"
    )
    assert load_prompt("santacoder").text(fix, example) == (
        f"<file_name>\ndoubled.js\n<commit_before>\n{code}\n<commit_msg>\n{asked}<commit_after>\nhead{{"
    )
    assert load_prompt("continue").text(synthesize, example) == example.prompt.strip()
    assert load_prompt("wizardcoder").text(describe, example).endswith("\n\n### Response:")


def test_chat_asks_the_tokenizer() -> None:
    prompt, task = load_prompt("chat"), Task("synthesize", "js")
    text = prompt.text(task, row("js"), tokenizer=chat_tokenizer())
    assert text == f"<user>{row('js').instruction.strip()}</s><assistant>{row('js').prompt.strip()}"
    with pytest.raises(OctoError, match="no chat template"):
        prompt.text(task, row("js"))


def test_fields_in_a_row_are_text() -> None:
    text = load_prompt("octocoder").text(Task("synthesize", "js"), row("js", instruction="{base} {file}"))
    assert text.startswith("Question: {base} {file}\n")


def test_a_prompt_refuses_tasks_that_it_cannot_ask() -> None:
    for name, scenario in (("continue", "fixtests"), ("santacoder", "synthesize")):
        with pytest.raises(OctoError, match=f"prompt {name} cannot ask humaneval{scenario}-go"):
            load_prompt(name).text(Task(scenario, "go"), row("go"))
    assert load_prompt("starchat").stop_words(Task("fixtests", "go")) == ("<|end|>",)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text('template: "Do: {input}\\n{base}"\nstop: ["\\n\\n"]\nscenarios: [synthesize]\n')
    prompt = load_prompt(str(path))
    assert (prompt.chat, prompt.name, prompt.stop) == (False, "chat", ("\n\n",))
    assert prompt.text(Task("synthesize", "js"), row("js")).startswith("Do: Write a function")
    before = prompt.digest
    path.write_text(path.read_text().replace("Do", "Make"))
    assert load_prompt(str(path)).digest != before


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "a mapping with 'template' is wanted"),
        ("temlate: x", "did you mean 'template'"),
        ("template: x", "asks nothing"),
        ("template: 3", "valid string"),
        ('template: "{base}"\nscenarios: [fix]', "scenarios.0"),
        ('template: "{base}\\e"', "control characters"),
        ('template: "{base}', "not valid YAML"),
    ],
)
def test_refuses_what_is_no_prompt(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(OctoError, match=what) as caught:
        load_prompt(str(path))
    assert str(path) in str(caught.value)


def test_unknown_prompts(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="did you mean octocoder"):
        load_prompt("octocodr")
    with pytest.raises(OctoError, match="cannot be read"):
        load_prompt(str(tmp_path / "absent.yaml"))


@needs_rows
def test_golden_digests_of_row_0() -> None:
    found, wanted = computed(), json.loads(FILE.read_text())
    assert found == wanted
    counts = {name: len(texts) - 1 for name, texts in found["prompts"].items()}
    assert counts == dict.fromkeys(prompt_names(), 30) | {"continue": 6, "santacoder": 12}
    assert set(found["cuts"]) == {task.name for task in all_tasks()}
