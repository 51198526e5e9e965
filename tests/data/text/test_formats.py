from pathlib import Path
from typing import Any

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.preprocessing.encode import parse_row
from megatron_octo.data.text.formats import FORMATS, FormatName, Keys, RowError, draft_maker, is_pretraining
from megatron_octo.data.text.template import load_template
from megatron_octo.data.text.tokenizer import Tokenizer
from tests.data.conftest import train_tokenizer
from tests.places import PROJECT

EOD, BEFORE, MESSAGE, AFTER = 0, 2, 3, 4  # ids in the tokenizer of conftest
COMMIT = {"old_contents": "a", "subject": "s", "message": "s\n\nlong", "new_contents": "b"}


@pytest.mark.parametrize(
    ("name", "row", "draft"),
    [
        ("finetune", {"inputs": "q", "outputs": "a"}, [(0, ["q"]), (1, ["a", EOD])]),
        ("finetune", {"inputs": "q", "targets": "a"}, [(0, ["q"]), (1, ["a", EOD])]),
        ("finetune", {"inputs": "q", "outputs": "a", "targets": "b"}, [(0, ["q"]), (1, ["a", EOD])]),
        ("finetune", {"inputs": "q", "outputs": "a<|endoftext|>"}, [(0, ["q"]), (1, ["a", EOD])]),
        ("finetune", {"inputs": "", "outputs": "a"}, [(1, ["a", EOD])]),
        ("text", {"text": "t"}, [(1, ["t", EOD])]),
        ("commits", COMMIT, [(0, [BEFORE, "a", MESSAGE, "s", AFTER]), (1, ["b", EOD])]),
        ("commits", {**COMMIT, "old_contents": ""}, [(0, [BEFORE, MESSAGE, "s", AFTER]), (1, ["b", EOD])]),
        (
            "commits",
            {"old_contents": "a", "message": "m", "new_contents": "b"},
            [(0, [BEFORE, "a", MESSAGE, "m", AFTER]), (1, ["b", EOD])],
        ),
    ],
)
def test_rows(tokenizer_file: Path, name: FormatName, row: dict[str, Any], draft: list) -> None:
    assert draft_maker(name, Keys(), Tokenizer(tokenizer_file))(row) == draft


def test_other_columns(tokenizer_file: Path) -> None:
    make = draft_maker("finetune", Keys("prompt", "completion"), Tokenizer(tokenizer_file))
    assert make({"prompt": "q", "completion": "a"}) == [(0, ["q"]), (1, ["a", EOD])]


@pytest.mark.parametrize(
    ("name", "row", "reason", "says"),
    [
        ("finetune", {"inputs": "q"}, "missing key", "no key 'outputs' or 'targets'; the row has 'inputs'"),
        ("finetune", {"outputs": "a"}, "missing key", "no key 'inputs'"),
        ("finetune", {"inputs": 3, "outputs": "a"}, "not a string", "'inputs' is int"),
        ("finetune", {"inputs": "q", "outputs": None}, "not a string", "'outputs' is NoneType"),
        ("finetune", {"inputs": "q", "outputs": ""}, "empty output", "'outputs' is empty"),
        ("finetune", {"inputs": "q", "targets": "<|endoftext|>"}, "empty output", "'targets' is empty"),
        ("text", {"text": ""}, "empty document", "'text' is empty"),
        ("commits", {**COMMIT, "new_contents": ""}, "empty output", "'new_contents' is empty"),
        ("commits", {"old_contents": "a", "new_contents": "b"}, "missing key", "'subject' or 'message'"),
    ],
)
def test_bad_rows(tokenizer_file: Path, name: FormatName, row: dict[str, Any], reason: str, says: str) -> None:
    with pytest.raises(RowError) as caught:
        draft_maker(name, Keys(), Tokenizer(tokenizer_file))(row)
    assert caught.value.reason == reason
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "broken JSON"),
        (b"[1]", "not an object"),
        (b'{"a": "\xff"}', "invalid UTF-8"),
        (b'{"a": NaN}', "broken JSON"),
    ],
)
def test_bad_lines(line: bytes, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(line)
    assert caught.value.reason == reason


def test_commits_need_control_tokens(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train_tokenizer(tmp_path / "t.json", ["<|endoftext|>"]))
    with pytest.raises(OctoError, match="no token '<commit_before>'"):
        draft_maker("commits", Keys(), tokenizer)


NAMED = {**COMMIT, "old_file": "src/deep/a.py"}
CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a<|endoftext|>"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "b"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    control = ["<|endoftext|>", "<filename>", "<commit_before>", "<commit_msg>", "<commit_after>"]
    return Tokenizer(train_tokenizer(tmp_path_factory.mktemp("t") / "t.json", control))


@pytest.mark.parametrize(
    ("name", "row", "draft"),
    [
        (
            "octocoder",
            {"prompt": "q", "completion": "a"},
            [(0, ["Question: q\n\nAnswer:"]), (1, [" a", EOD])],
        ),
        (
            "chat",
            {"messages": CHAT},
            [
                (0, ["S\n\nQuestion: q\n\nAnswer:"]),
                (1, [" a", EOD]),
                (0, ["Question: r\n\nAnswer:"]),
                (1, [" b", EOD]),
            ],
        ),
        ("commits_message_target", COMMIT, [(0, [BEFORE, "a", MESSAGE]), (1, ["s", AFTER, "b", EOD])]),
        (
            "commits_fenced",
            COMMIT,
            [(0, ["```\na\n```\n"]), (1, ["s\n```\nb\n```", EOD])],
        ),
        (
            "commits_santacoder",
            {**COMMIT, "old_contents": " a\n", "subject": "s "},
            [(0, ["<commit_before>\na\n<commit_msg>\ns\n<commit_after>\n"]), (1, ["b", EOD])],
        ),
        (
            "commits_santacoder_filename",
            NAMED,
            [
                (0, ["<file_name>\na.py\n<commit_before>\na\n<commit_msg>\ns\n<commit_after>\n"]),
                (1, ["b", EOD]),
            ],
        ),
    ],
)
def test_templates(tokenizer: Tokenizer, name: str, row: dict[str, Any], draft: list) -> None:
    assert draft_maker(name, Keys(), tokenizer)(row, 0) == draft


@pytest.mark.parametrize("name", ["commits_filename", "commits_message_target_filename"])
def test_chance_is_a_function_of_the_number(tokenizer: Tokenizer, name: str) -> None:
    make = draft_maker(name, Keys(), tokenizer)
    drafts = [make(NAMED, number) for number in range(4000)]
    named = [draft[0][1][:2] == [1, "a.py"] for draft in drafts]
    assert abs(sum(named) / 4000 - 0.5) < 0.03
    assert [make(NAMED, number) for number in reversed(range(4000))] == drafts[::-1]
    plain = draft_maker(name.removesuffix("_filename"), Keys(), tokenizer)(NAMED, 0)
    assert all((draft[0][1][2:] if has else draft[0][1]) == plain[0][1] for draft, has in zip(drafts, named))
    # Written down once: the choices of a data set must not change with a version.
    assert [int(has) for has in named[:16]] == GOLDEN_CHOICES


GOLDEN_CHOICES = [1, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0]


def test_only_text_is_pretraining() -> None:
    assert [name for name in FORMATS if is_pretraining(name)] == ["text"]
    assert {"finetune", "text", "commits", "chat", "octocoder"} <= set(FORMATS)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ("hello", "the value of 'messages' is not a list of objects (format chat, line 3)"),
        (
            [{"role": "robot", "content": "x"}],
            "messages[0]: role is 'robot', known are system, user, assistant",
        ),
        ([{"role": "user"}], "no key 'content'"),
        ([{"role": "user", "content": "x"}], "no part of the row is learned"),
        ([{"role": "assistant", "content": ""}], "'content' is empty"),
    ],
)
def test_bad_chats(tokenizer: Tokenizer, messages: object, says: str) -> None:
    with pytest.raises(RowError) as caught:
        draft_maker("chat", Keys(), tokenizer)({"messages": messages}, 0)
    assert says in str(caught.value)


BAD_TEMPLATES = {
    "document:\n  - contxt: [a]\n": (2, "unknown key 'contxt'; did you mean 'context'?"),
    "document:\n  - target:\n      - feild: a\n": (3, "unknown key 'feild'; did you mean 'field'?"),
    "documents: []\n": (1, "unknown key 'documents'; did you mean 'document'?"),
    "document:\n  - context: [{field: a}]\n": (1, "no target: there is nothing to learn"),
    "document:\n  - target: [text]\n": (2, "a target without a field"),
    "document:\n  - target: [{field: a, token: b}]\n": (2, "'field' has no meaning beside 'token'"),
    "document:\n  - target: [{field: a}]\n    target: []\n": (3, "key 'target' given twice"),
    "document:\n  - target: [{field: a}, 3]\n": (2, "text (in quotes) is wanted here"),
    "document:\n  - target:\n    - {end: true}\n    - {field: a}\n": (2, "'end' stands at the end"),
    "document:\n  - target: [{field: a}]\n  - context: [{chance: 2, parts: [x]}]\n": (3, "between 0 and 1"),
    "pretraining: true\ndocument:\n- context: [x]\n- target: [{field: a}]\n": (1, "has no context"),
    "document:\n  - target: [{field: a}]\nseed: one\n": (3, "a whole number is wanted here"),
    "document: [": (1, "not valid YAML"),
    "": (None, "the file is empty"),
}


@pytest.mark.parametrize("text", BAD_TEMPLATES)
def test_bad_templates(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    line, says = BAD_TEMPLATES[text]
    with pytest.raises(OctoError) as caught:
        load_template(path)
    assert says in str(caught.value)
    if line and "not valid" not in says:
        assert str(caught.value.where) == f"{path}:{line}"


def test_own_template(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "seed: 3\ndocument:\n  - context: [{token: <filename>}, {field: q, strip: yes}]\n  - target:\n"
        "      - {field: a}\n      - {end: true}\n"
    )
    make = draft_maker(str(path), Keys(), tokenizer)
    assert make({"q": " x ", "a": "y<|endoftext|>"}, 0) == [(0, [1, "x"]), (1, ["y", EOD])]
    with pytest.raises(RowError, match=r"no key 'q'.*mine.yaml, line 3"):
        make({"a": "y"}, 0)
    path.write_text("document:\n  - target:\n      - {field: a}\n      - {token: <nope>}\n")
    with pytest.raises(OctoError, match="no token '<nope>'") as caught:
        draft_maker(str(path), Keys(), tokenizer)
    assert f"{path}:4" in str(caught.value.where)
    with pytest.raises(OctoError, match="no format 'comits'; did you mean 'commits'"):
        draft_maker("comits", Keys(), tokenizer)


def test_the_template_of_the_documentation(tmp_path: Path, tokenizer: Tokenizer) -> None:
    page = (PROJECT / "docs" / "data.md").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    make = draft_maker(str(path), Keys(), tokenizer)
    row = {"path": "a/b.py", "title": " t ", "solution": "s"}
    drafts = {str(make(row, number)) for number in range(50)}
    assert drafts == {
        str([(0, ["Task: t"]), (1, ["s", EOD])]),
        str([(0, [1, "b.pyTask: t"]), (1, ["s", EOD])]),
    }
    table = page.split("| format | columns |")[1].split("\n\n")[0]
    assert [name for name in FORMATS if f"`{name}`" not in table] == []
