"""Hostile text on its way to a terminal, a shell, an sbatch option, a page and a record."""

import random
import subprocess
from html.parser import HTMLParser

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.common.quoting import check_plain, markup, masked_value, masked_words, sbatch, shell
from megatron_octo.common.terminal import is_plain, printable

PIECES = [
    "a",
    "é",
    "'",
    '"',
    "\\",
    "$(touch x)",
    "`touch x`",
    "\n",
    "\r",
    "\x1b[2J",
    "\x00",
    "\u202e",
    "\udcff",
    "<script>",
    "&amp;",
    "]]>",
    "-->",
    " ",
    ";",
    "#",
    "\u2028",
    "\x85",
    "%j",
    "日本",
    "\u200d",
    "*",
    "~",
    "!",
    "{a,b}",
]


def hostile(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(1, 8))) for _ in range(count)]


def test_nothing_hidden_reaches_a_terminal() -> None:
    for text in hostile(300, 0):
        shown = printable(text)
        assert is_plain(shown) and "\x1b" not in shown
        shown.encode()  # no half of a surrogate pair
    assert printable("日本 é\u200d") == "日本 é\u200d"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_word_stays_one_word_of_a_shell() -> None:
    words = [text for text in hostile(300, 1) if "\x00" not in text and "\udcff" not in text]
    script = "\n".join(f"printf '%s\\0' {shell(word)}" for word in words)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_an_sbatch_option_stays_on_its_line() -> None:
    for text in hostile(300, 2):
        try:
            line = sbatch(text, "job-name")
        except OctoError as error:
            assert not is_plain(text) and is_plain(str(error), keep="\n")
            continue
        assert len(line.splitlines()) == 1
    with pytest.raises(OctoError, match="control characters"):
        check_plain("runs/a\nrm -rf", "run_dir")


def test_text_never_becomes_markup() -> None:
    class Collector(HTMLParser):
        tags: list[str] = []  # noqa: RUF012
        values: list[str | None] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.values += [value for _, value in attrs]

    for text in hostile(300, 3):
        page = Collector()
        page.tags, page.values = [], []
        page.feed(f'<p class="{markup(text)}">{markup(text)}</p>')
        assert page.tags == ["p"] and page.values == [printable(text, keep="\n\t")]


def test_secrets_are_masked_and_settings_are_not() -> None:
    for name in (
        "HF_TOKEN",
        "WANDB_API_KEY",
        "NCCL_AUTH_TOKEN",
        "TORCH_SECRET",
        "DB_PASSWORD",
        "aws-access-key",
        "KEYS",
    ):
        assert masked_value(name, "short") == "***"
    secret = "hf_" + "aB3" * 10
    for value in (
        f"https://me:{secret}@host/x",
        "http_proxy=http://u:p@h:1",
        secret,
        "AKIA" + "ABCD1234" * 3,
        "0123456789abcdef" * 4,
    ):
        shown = masked_value("NCCL_X", value)
        assert "***" in shown and secret not in shown and "0123456789abcdef" not in shown and "u:p" not in shown
    for value in (
        "/usr/local/bin:/home/me/projects/long-name-of-a-folder-2026-11-23/bin",
        "ib0,ib1",
        "expandable_segments:True",
        "0.1.0 (abc123def456+)",
        "optimizer.lr=5e-5",
        "recipes/finetune_santacoder_longlrinput.yaml",
    ):
        assert masked_value("NCCL_X", value) == value
    words = [
        "train.py",
        "recipe.yaml",
        "--hub-token",
        "abc",
        f"x={secret}",
        "log.api_key=abc",
        "data.tokenizer=a/b.json",
    ]
    assert masked_words(words) == [
        "train.py",
        "recipe.yaml",
        "--hub-token",
        "***",
        "x=***",
        "log.api_key=***",
        "data.tokenizer=a/b.json",
    ]
