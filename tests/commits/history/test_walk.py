from pathlib import Path

import pytest

from megatron_octo.commits.history.git import GitError
from megatron_octo.commits.history.walk import commit_ids, parse_log, read_commits
from tests.commits.history.made import Repository

HEADS = b"%s\0%s\0A <a@b>\0C <c@d>\x002020-01-01T00:00:00+00:00\0%s\0"
FILE = b":100644 100755 " + b"1" * 40 + b" " + b"2" * 40 + b" M\0"


def log() -> bytes:
    first = HEADS % (b"a" * 40, b"b" * 40, b"message\n:100644 looks like a change\n") + b"\0\n"
    second = HEADS % (b"b" * 40, b"", b"") + b"\0\n:000000 160000 " + b"0" * 40 + b" " + b"3" * 40 + b" A\0sub\0"
    third = HEADS % (b"c" * 40, b"d" * 40 + b" " + b"e" * 40, b"merge")
    return first + FILE + b"a\nb:\0" + FILE + b":c\0" + second + third


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_output_is_parsed_wherever_it_is_cut(size: int) -> None:
    text = log()
    one, two, three = parse_log(text[place : place + size] for place in range(0, len(text), size))
    assert (one.id, one.parents, one.message) == ("a" * 40, 1, b"message\n:100644 looks like a change\n")
    assert [change.path for change in one.changes] == [b"a\nb:", b":c"]
    assert (one.changes[0].old_blob, one.changes[0].new_blob, one.changes[0].regular) == ("1" * 40, "2" * 40, True)
    assert (two.parents, two.message, two.date) == (0, b"", "2020-01-01T00:00:00+00:00")
    assert (two.changes[0].old_blob, two.changes[0].regular) == (None, False)
    assert (three.parents, len(three.changes)) == (2, 0)


def test_a_commit_that_is_cut_short_is_left_out() -> None:
    text = log()
    for end in range(len(text)):
        found = list(parse_log([text[:end]]))
        assert all(commit.author == b"A <a@b>" and commit.date for commit in found)


def test_ids_are_in_order_and_limited(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    ids = [made.commit({"a.py": str(number).encode()}) for number in range(4)]
    directory = made.path / ".git"
    assert commit_ids(directory, ("HEAD",)) == ids[::-1]
    assert commit_ids(directory, ("HEAD",), 2) == ids[:1:-1]
    assert commit_ids(directory, (ids[1],)) == ids[1::-1]
    made.git("checkout", "-q", "--orphan", "other")
    other = made.commit({"a.py": b"x"})
    assert set(commit_ids(directory, ("--all",))) == {*ids, other}
    assert [commit.id for commit in read_commits(directory, ids)] == ids
    for revision in ("absent", "--output=x", "-n1"):
        with pytest.raises(GitError, match="git rev-parse failed"):
            commit_ids(directory, ("HEAD", revision))
    with pytest.raises(GitError, match="git log failed"):
        list(read_commits(directory, ["f" * 40]))
    assert not Path("x").exists()
