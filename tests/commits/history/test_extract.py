"""Rows of real repositories against ``git show``, and the rules of what becomes a row."""

import os
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest

from megatron_octo.commits.history.extract import Source, Wanted, rows_of
from megatron_octo.commits.history.git import GitError, find_directory
from megatron_octo.commits.history.walk import commit_ids
from megatron_octo.commits.rows import Row
from tests.commits.history.made import HOSTILE, Repository, git_show, typical
from tests.places import PROJECT


def rows(directory: Path, wanted: Wanted = Wanted(), revisions: tuple[str, ...] = ("HEAD",)) -> dict[str, Row]:  # noqa: B008
    source = Source(directory, "a/b", "mit")
    found = list(rows_of(source, commit_ids(directory, revisions), wanted, Counter()))
    assert len({row.commit for row in found}) == len(found)
    return {row.commit: row for row in found}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, dict[str, str]]:
    return typical(tmp_path_factory.mktemp("typical") / "repository")


@pytest.mark.slow
@pytest.mark.parametrize("sha256", [False, True])
def test_every_pair_is_what_git_shows(tmp_path: Path, sha256: bool) -> None:
    made, ids = typical(tmp_path / "repository", sha256=sha256)
    directory = made.bare(tmp_path / "bare.git")
    found = rows(directory)
    assert len(ids["edit"]) == (64 if sha256 else 40)
    for row in found.values():
        for blob, text in ((row.old_blob, row.old_contents), (row.new_blob, row.new_contents)):
            assert blob is not None
            if text is not None:
                assert text.encode() == git_show(directory, blob)
        if row.kept:
            assert git_show(directory, f"{row.commit}:{row.new_file}") == (row.new_contents or "").encode()
            assert git_show(directory, f"{row.commit}^:{row.old_file}") == (row.old_contents or "").encode()
    assert not (made.path / "EXECUTED").exists() and not Path("EXECUTED").exists()


def kinds(found: dict[str, Row], ids: dict[str, str]) -> set[str]:
    names = {commit: kind for kind, commit in ids.items()}
    return {names[commit] for commit in found if not names[commit].startswith(("b'", 'b"'))}


EDITS = {"edit", "empty", "fill", "mode", "bytes", "nul", "back", "message", "quoted", "side"}


def test_which_commits_become_rows(repository: tuple[Repository, dict[str, str]]) -> None:
    made, ids = repository
    directory = made.path / ".git"
    assert kinds(rows(directory), ids) == EDITS | {"edit_and_create"}
    assert kinds(rows(directory, Wanted(alone=True)), ids) == EDITS
    # A rename is a file that goes and one that comes.
    created = kinds(rows(directory, Wanted(creations=True)), ids)
    assert created == EDITS | {"create", "rename"}
    assert kinds(rows(directory, Wanted(creations=True, roots=True)), ids) == created  # the root adds many files
    assert kinds(rows(directory, Wanted(creations=True, alone=True)), ids) == EDITS | {"create"}


def test_a_root_with_one_file(tmp_path: Path) -> None:
    made = Repository(tmp_path / "one")
    made.commit({"a.py": b"x\n"})
    directory = made.path / ".git"
    assert not rows(directory, Wanted(creations=True))
    (row,) = rows(directory, Wanted(creations=True, roots=True)).values()
    assert (row.old_file, row.old_contents, row.old_blob) == ("", None, None)
    assert (row.new_file, row.new_contents, row.kept) == ("a.py", "x\n", True)


def test_columns(repository: tuple[Repository, dict[str, str]]) -> None:
    made, ids = repository
    row = rows(made.path / ".git")[ids["edit"]]
    assert (row.old_file, row.new_file, row.lang) == ("a.py", "a.py", "Python")
    assert (row.old_contents, row.new_contents) == ("x = 1\n", "x = 'é'\r\n")
    assert (row.subject, row.message) == ("Edit a", "Edit a\n\nwith a body")
    assert (row.author, row.committer) == ("Ada Löwe <ada@example.org>", "bot[bot] <bot@example.org>")
    assert (row.date, row.repos, row.license) == ("2021-01-02T03:04:05-07:30", "a/b", "mit")
    assert row.new_blob == made.blob("a.py", ids["edit"])


def test_states_of_contents(repository: tuple[Repository, dict[str, str]]) -> None:
    made, ids = repository
    found = rows(made.path / ".git")
    shown = {kind: (found[ids[kind]].drop, found[ids[kind]].drop_why) for kind in ("bytes", "nul", "back", "message")}
    assert shown == {
        "bytes": ("undecodable", "new contents, 11 bytes"),
        "nul": ("undecodable", "old contents, 11 bytes"),
        "back": ("binary", "old contents, 3 bytes"),
        "message": ("undecodable", "message"),
    }
    assert (found[ids["empty"]].new_contents, found[ids["fill"]].old_contents) == ("", "")
    assert found[ids["empty"]].kept and found[ids["fill"]].kept
    assert found[ids["bytes"]].new_contents is None
    assert found[ids["message"]].message == "caf\\xe9 \\xff"


def test_hostile_names(repository: tuple[Repository, dict[str, str]]) -> None:
    made, ids = repository
    found = rows(made.path / ".git")
    for name in HOSTILE:
        row = found[ids[repr(name)]]
        assert row.old_contents == "one\n"
        if name == b"caf\xe9.py":
            assert (row.new_file, row.drop, row.drop_why) == ("caf\\xe9.py", "undecodable", "new contents, 11 bytes")
        else:
            assert (row.new_file, row.new_contents, row.drop) == (name.decode(), "two\n" + name.decode(), None)
    assert not (made.path / "EXECUTED").exists() and not Path("EXECUTED").exists()


def test_names_that_are_not_utf8_drop_the_row(tmp_path: Path) -> None:
    made = Repository(tmp_path / "names")
    made.commit({b"caf\xe9.py": b"1\n"})
    made.commit({b"caf\xe9.py": b"2\n"})
    (row,) = rows(made.path / ".git").values()
    assert (row.new_file, row.new_contents, row.drop, row.drop_why) == (
        "caf\\xe9.py",
        "2\n",
        "undecodable",
        "file name",
    )


def test_messages_in_the_encoding_that_they_declare(tmp_path: Path) -> None:
    made = Repository(tmp_path / "encodings")
    made.commit({"a.py": b"1\n"})
    made.git("config", "i18n.commitEncoding", "ISO-8859-1")
    made.commit({"a.py": b"2\n"}, b"caf\xe9")
    (row,) = rows(made.path / ".git").values()
    assert (row.message, row.drop) == ("café", None)


def test_large_files_are_dropped(tmp_path: Path) -> None:
    made = Repository(tmp_path / "large")
    made.commit({"a.py": b"1\n"})
    made.commit({"a.py": b"x" * 200_000})
    made.commit({"a.py": b"x" * 1000})
    found = list(rows(made.path / ".git", Wanted(most_bytes=1000)).values())
    assert [(row.drop, row.drop_why) for row in found] == [
        ("too_large", "old contents, 200,000 bytes"),
        ("too_large", "new contents, 200,000 bytes"),
    ]
    assert found[0].new_contents == "x" * 1000


def test_missing_and_damaged_blobs_are_states(tmp_path: Path) -> None:
    made = Repository(tmp_path / "damaged")
    noise = random.Random(0).randbytes(40_000).hex().encode()
    contents = [b"zero\n", b"one\n", b"two\n", noise, b"four\n", b"five\n", b"six\n"]
    ids = [made.commit({"a.py": content}) for content in contents]
    blobs = [made.blob("a.py", commit) for commit in ids]
    for blob in blobs:
        made.loose(blob).chmod(0o644)
    made.loose(blobs[1]).unlink()
    packed = bytearray(made.loose(blobs[3]).read_bytes())
    packed[20_000:20_100] = bytes(100)  # git unpacks the head, and ends with an error inside
    made.loose(blobs[3]).write_bytes(packed)
    made.loose(blobs[5]).write_bytes(zlib.compress(b"blob 5\0fife\n"))
    found = rows(made.path / ".git")
    shown = [(found[commit].drop, (found[commit].drop_why or "").partition(",")[0]) for commit in ids[1:]]
    assert shown == [
        ("missing", "new contents"),
        ("missing", "old contents"),
        ("damaged", "new contents"),
        ("damaged", "old contents"),
        ("damaged", "new contents"),
        ("damaged", "old contents"),
    ]
    assert found[ids[2]].new_contents == "two\n"


def test_a_missing_tree_is_an_error(tmp_path: Path) -> None:
    made = Repository(tmp_path / "trees")
    made.commit({"a.py": b"1\n"})
    made.commit({"a.py": b"2\n"})
    made.loose(made.git("rev-parse", "HEAD^{tree}").decode().strip()).unlink()
    with pytest.raises(GitError, match=r"git log failed: .*(tree|object)"):
        rows(made.path / ".git")


def test_more_commits_than_a_batch_and_versions_that_return(tmp_path: Path) -> None:
    made = Repository(tmp_path / "many")
    lines = [b"commit refs/heads/main\ncommitter A <a@b> 1600000000 +0000\ndata 1\nc\n"]
    lines[0] += b"M 100644 inline a.py\ndata 1\n0\n"
    for number in range(1, 700):
        text = str(number % 3 if number % 2 else number).encode()
        lines.append(b"commit refs/heads/main\ncommitter A <a@b> %d +0000\ndata 1\nc\n" % (1600000000 + number))
        lines.append(b"M 100644 inline a.py\ndata %d\n%s\n" % (len(text), text))
    made.git("fast-import", "--quiet", data=b"".join(lines))
    found = rows(made.path / ".git")
    assert len(found) > 600
    for row in list(found.values())[::37]:
        assert git_show(made.path / ".git", f"{row.commit}:a.py") == (row.new_contents or "").encode()
        assert git_show(made.path / ".git", f"{row.commit}^:a.py") == (row.old_contents or "").encode()


def test_settings_of_a_repository_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A foreign repository may name programs in its own file of settings."""
    made = Repository(tmp_path / "evil")
    made.commit({"a.py": b"1\n"})
    made.commit({"a.py": b"2\n"})
    text = made.git("cat-file", "commit", "HEAD")
    head, _, message = text.partition(b"\n\n")
    signed = head + b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n" + message
    commit = made.git("hash-object", "-t", "commit", "-w", "--stdin", data=signed).decode().strip()
    made.git("update-ref", "refs/heads/main", commit)
    marker = tmp_path / "RAN"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    for name in ("gpg.program", "core.fsmonitor", "core.pager", "core.sshCommand", "diff.external", "core.editor"):
        made.git("config", name, os.fspath(program))
    made.git("config", "log.showSignature", "true")
    made.git("config", "diff.x.textconv", os.fspath(program))
    made.git("config", "core.hooksPath", os.fspath(tmp_path))
    made.git("config", "remote.origin.promisor", "true")
    made.git("config", "remote.origin.url", f"ext::{program}")
    made.git("config", "protocol.ext.allow", "always")
    made.loose(made.blob("a.py", "HEAD^")).unlink()
    directory = find_directory(made.path)
    assert directory is not None
    (row,) = rows(directory).values()
    assert row.drop == "missing" and row.new_contents == "2\n"
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a clone")
def test_the_projects_own_history() -> None:
    directory = find_directory(PROJECT)
    assert directory is not None
    ids = commit_ids(directory, ("HEAD",), 300)
    count: Counter[str] = Counter()
    found = list(rows_of(Source(directory, "a/b", None), ids, Wanted(), count))
    assert count["commits"] == len(ids)
    for row in found:
        if row.kept:
            assert git_show(directory, f"{row.commit}:{row.new_file}") == (row.new_contents or "").encode()
            assert git_show(directory, f"{row.commit}^:{row.old_file}") == (row.old_contents or "").encode()
