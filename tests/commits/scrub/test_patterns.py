"""Patterns find what issuers write, and leave what only looks like it."""

import pytest

from benchmarks.planted_secrets import KINDS, planted
from megatron_octo.commits.scrub.patterns import entropy, patterns


def found(text: str) -> set[str]:
    return {each.name for each in patterns() if each.values(text)}


def test_every_pattern_has_planted_secrets_and_names_its_source() -> None:
    assert {each.name for each in patterns()} == set(KINDS) and len(KINDS) >= 20
    assert all(each.source for each in patterns())


@pytest.mark.parametrize("kind", KINDS)
def test_planted_secrets_are_found_by_their_pattern(kind: str) -> None:
    pattern = next(each for each in patterns() if each.name == kind)
    made = [each for each in planted(1, 20) if each.kind == kind]
    assert sum(each.value in pattern.values(each.before) for each in made) >= 0.95 * len(made)


@pytest.mark.parametrize(
    "text",
    [
        "git@github.com:owner/name.git",
        "a <noreply@anthropic.example> and user@example.com",
        "sprite@2x.png is an image",
        "@app.route('/')",
        "requires version 10.12.14.16 or newer; pkg==91.2.3.4",
        "127.0.0.1 10.0.0.8 192.168.1.20 0.0.0.0 255.255.255.255 8.8.8.8",
        "1.3.6.1.4.1.311.21.20 is an object id",
        "rows[15::16] std::vector::iterator 12:30:45",
        "password = os.environ['PASSWORD']",
        'password = "changeme123"',
        "token = '<your token 123>'",
        'const key = "${SECRET_KEY_2}"',
        "postgres://user:password@localhost/db",
        "3f786850e387550fdab836ed7e6dc881de23001b",
        "sk-learn and hf_hub_download(repo)",
        "AKIA is a prefix; AKIAshort",
        "http://[2001:db8::1]/",
    ],
)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert found(text) == set()


def test_entropy() -> None:
    assert entropy("") == 0 and entropy("aaaa") == 0 and entropy("abcd") == 2
