"""Rules one by one: each has a row that only it drops, and what the original gets wrong stays wrong in its mode."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.commits.filters import first_rules
from megatron_octo.commits.filters.rule_sets import CLEANS, MODES, NEVER_ALONE, TOKENS, Mode, rules
from megatron_octo.commits.filters.subject import Look
from megatron_octo.commits.rows import Row
from tests.commits.filters.made import ALONE, MISTAKES, row


def refused(given: Row, mode: Mode, without: str | None = None) -> str | None:
    """The first rule that drops a row; the one on tokens, which needs a tokenizer, is a rule of its own file."""
    look = Look.of(given)
    return next((rule.name for rule in rules(mode) if rule.name != without and rule.test(look) is not None), None)


@pytest.mark.parametrize("mode", MODES)
def test_every_rule_is_tried(mode: Mode) -> None:
    assert {each.name for each in rules(mode)} == {*ALONE, *CLEANS, *NEVER_ALONE}
    assert all(each.purpose.endswith(".") for each in rules(mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in ALONE if name != TOKENS])
def test_each_rule_has_a_row_that_only_it_drops(name: str, mode: Mode) -> None:
    assert refused(row({}), mode) is None
    assert refused(row(ALONE[name]), mode) == name
    assert refused(row(ALONE[name]), mode, without=name) is None


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_of_the_original(name: str) -> None:
    assert refused(row(MISTAKES[name]), "octopack") == name
    assert refused(row(MISTAKES[name]), "fixed") is None


def test_rules_that_others_hide() -> None:
    assert first_rules.bad_subject(Look.of(row({"subject": "Update README"}))) == "update readme"
    assert first_rules.version(Look.of(row({"subject": "v1.2.3: it is out"}))) == "v1.2.3"
    assert first_rules.hexadecimal(Look.of(row({"subject": "0239-2a41"}))) == "0239-2a41"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[web] links: Fix  the\tcolours [skip ci] [x]", "Fix the colours"),
        ("demo/cmd.py: Fix it", "Fix it"),
        ("[skip ci]", ""),
        ("", ""),
        ("[a] [b] c", "[b] c"),
    ],
)
def test_cleaning(before: str, after: str) -> None:
    look = Look.of(row({"subject": before}))
    CLEANS["clean_marks"](look)
    assert (look.subject, look.words) == (after, after.split())


@pytest.mark.parametrize(
    ("path", "subject", "drops"),
    [
        ("a/checkpoint.py", "Fix checkpointing", True),
        ("a/config.py", "Remove get_config_from_file", True),
        ("a/config.py", "Remove reconfigurations", False),
        ("a.test.js", "Add a test of it", False),
        ("a.test.js", "Add to a.test of it", True),
        ("Dockerfile", "Change the Dockerfile", True),
        ("c.c", "Fix c", False),
    ],
)
def test_file_names_in_subjects(path: str, subject: str, drops: bool) -> None:
    assert (first_rules.file_name(Look.of(row({"new_file": path, "subject": subject}))) is not None) is drops


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60), st.text(max_size=20), st.sampled_from(MODES))
def test_odd_subjects_and_names_raise_nothing(subject: str, path: str, mode: Mode) -> None:
    look = Look.of(row({"subject": subject, "new_file": path, "lang": None}))
    for rule in rules(mode):
        found = rule.test(look)
        assert found is None or isinstance(found, str)
