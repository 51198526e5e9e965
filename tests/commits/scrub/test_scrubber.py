"""Replacements: the same in all texts of a row, distinct for distinct values, and edits stay edits."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.commits_scrub import find_planted
from benchmarks.planted_secrets import planted
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.commits.scrub.scrubber import Scrubber
from megatron_octo.common.errors import OctoError
from tests.places import SHARED

KEY, OTHER = "AKIA" + "ABCDEFGH23456723", "AKIA" + "QRSTUVWX76543223"


def row(old: str | None, new: str | None, subject: str = "Change it", **more: str) -> Row:
    return Row("a" * 40, old_contents=old, new_contents=new, subject=subject, message=subject, **more)  # type: ignore[arg-type]


def test_one_value_has_one_replacement_in_all_texts() -> None:
    mail = "anna.k@firm.org"
    found = Scrubber().scrub(row(f"# {mail}\nx = 1\n", f"# {mail}\nx = 2  # {mail}\n", f"Ask {mail}"))
    assert found.old_contents == "# <EMAIL>\nx = 1\n"
    assert found.new_contents == "# <EMAIL>\nx = 2  # <EMAIL>\n"
    assert found.subject == found.message == "Ask <EMAIL>"
    assert found.signals == {"scrubbed": ["email"], "scrubbed_values": 1}


def test_a_value_that_one_text_gives_away_goes_from_the_others() -> None:
    found = Scrubber().scrub(row('password = "k7Gh2!pQz9"\n', "use('k7Gh2!pQz9')\nk7Gh2!pQz9x\n"))
    assert found.old_contents == 'password = "<PASSWORD>"\n'
    assert found.new_contents == "use('<PASSWORD>')\nk7Gh2!pQz9x\n"


def test_an_edit_of_a_secret_stays_an_edit() -> None:
    found = Scrubber().scrub(row(f"k = '{KEY}'\n", f"k = '{OTHER}'\n"))
    assert (found.old_contents, found.new_contents) == ("k = '<KEY>'\n", "k = '<KEY_2>'\n")


def test_a_replacement_that_the_texts_hold_is_not_taken() -> None:
    found = Scrubber().scrub(row("k = '<KEY>'\n", f"k = '{KEY}'\n"))
    assert (found.old_contents, found.new_contents) == ("k = '<KEY>'\n", "k = '<KEY_2>'\n")


def test_addresses_of_hosts_stay_addresses() -> None:
    found = Scrubber().scrub(row("a = '93.184.216.34'\n", "a = '93.184.216.34'\nb = '2a00:1450:4001:81b::200e'\n"))
    assert found.old_contents == "a = '192.0.2.1'\n"
    assert found.new_contents == "a = '192.0.2.1'\nb = '2001:db8::1'\n"


def test_persons_go_unless_they_are_wanted() -> None:
    assert Scrubber().scrub(row("a", "b", author="A <a@b.org>", committer="B <b@b.org>")).author is None
    assert Scrubber(keep_persons=True).scrub(row("a", "b", author="A <a@b.org>")).author == "A <a@b.org>"


def test_null_and_empty_contents_differ() -> None:
    found = Scrubber().scrub(row(None, ""))
    assert (found.old_contents, found.new_contents) == (None, "")


def test_planted_secrets_are_removed_and_edits_survive() -> None:
    made, gone, lost = find_planted(Scrubber(), 3, 10)
    assert lost == 0 and all(gone[kind] >= 0.95 * made[kind] for kind in made)


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(OctoError, match="no pattern 'emails'"):
        Scrubber(["emails"])


PARTS = st.one_of(
    st.sampled_from([each.value for each in planted(5, 2)]),
    st.sampled_from(["password = '", "'", "\n", " ", "<EMAIL>", "<KEY_2>", "@", "é\N{KELVIN SIGN}", "192.0.2.1"]),
    st.text(max_size=12),
)
TEXTS = st.lists(PARTS, max_size=8).map("".join)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_texts_that_differ_still_differ_and_hyperscan_changes_nothing(old: str, new: str) -> None:
    fast = Scrubber().scrub(row(old, new))
    assert (fast.old_contents == fast.new_contents) == (old == new)
    slow = Scrubber(prefilter=False).scrub(row(old, new))
    assert (fast.old_contents, fast.new_contents, fast.signals) == (slow.old_contents, slow.new_contents, slow.signals)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real rows")
def test_real_rows_are_the_same_with_and_without_hyperscan() -> None:
    rows = list(read_rows(SHARED / "commits.jsonl.gz"))[::4]
    fast, slow = ([each.scrub(copy.copy(row)) for row in rows] for each in (Scrubber(), Scrubber(prefilter=False)))
    assert fast == slow
    assert any("<EMAIL>" in str(each.new_contents) for each in fast)
