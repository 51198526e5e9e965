"""Clones of a real git server on loopback."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_octo.commits.history.extract import Source, Wanted, rows_of, wanted_blobs
from megatron_octo.commits.history.git import GitError
from megatron_octo.commits.history.remote import (
    cache_root,
    check_url,
    fetch_blobs,
    is_blobless,
    is_url,
    mirror,
    missing_blobs,
    name_of_url,
    place_of,
)
from megatron_octo.commits.history.walk import commit_ids
from megatron_octo.common.errors import OctoError
from tests.commits.history.daemon import free_port, git_daemon
from tests.commits.history.made import Repository, typical


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, str]]:
    base = tmp_path_factory.mktemp("served")
    made, _ = typical(base / "owner" / "name")
    made.git("config", "uploadpack.allowFilter", "true")
    with git_daemon(base) as url:
        yield made, f"{url}/owner/name/.git"


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.endswith(".lock")}


def test_a_clone_gives_the_rows_of_the_original(tmp_path: Path, served: tuple[Repository, str]) -> None:
    made, url = served
    clone = mirror(url, tmp_path)
    wanted = _rows(made.path / ".git")
    assert _rows(clone) == wanted and len(wanted) > 20
    assert names(tmp_path) == {clone.name} and not is_blobless(clone)
    assert mirror(url, tmp_path, refresh=False) == clone


def _rows(directory: Path) -> list[dict[str, object]]:
    ids = commit_ids(directory, ("HEAD",))
    return [row.mapping() for row in rows_of(Source(directory, "a/b", None), ids, Wanted(), Counter())]


def test_a_clone_without_blobs_fetches_those_that_are_wanted(tmp_path: Path, served: tuple[Repository, str]) -> None:
    made, url = served
    clone = mirror(url, tmp_path, blobless=True)
    assert is_blobless(clone)
    source, ids = Source(clone, "a/b", None), commit_ids(clone, ("HEAD",))
    assert {row["drop"] for row in _rows(clone)} == {"missing"}
    blobs = wanted_blobs(source, ids, Wanted())
    assert sorted(missing_blobs(clone, blobs)) == sorted(blobs)
    assert fetch_blobs(clone, blobs) == len(blobs)
    assert missing_blobs(clone, blobs) == [] == missing_blobs(clone, [])
    assert _rows(clone) == _rows(made.path / ".git")
    assert fetch_blobs(clone, blobs) == 0


def test_a_blob_that_the_server_lacks_stays_missing(tmp_path: Path, served: tuple[Repository, str]) -> None:
    _, url = served
    clone = mirror(url, tmp_path, blobless=True)
    blobs = wanted_blobs(Source(clone, "a/b", None), commit_ids(clone, ("HEAD",)), Wanted())
    none = ["0" * 39 + digit for digit in "12"]
    fetch_blobs(clone, [*blobs[:5], none[0], *blobs[5:], none[1]])
    assert missing_blobs(clone, [*blobs, *none]) == none


def test_a_clone_is_refreshed(tmp_path: Path) -> None:
    made = Repository(tmp_path / "served" / "name")
    made.commit({"a.py": b"1\n"})
    with git_daemon(tmp_path / "served") as url:
        clone = mirror(f"{url}/name/.git", tmp_path / "cache")
        new = made.commit({"a.py": b"2\n"})
        assert new not in commit_ids(mirror(f"{url}/name/.git", tmp_path / "cache", refresh=False), ("HEAD",))
        assert mirror(f"{url}/name/.git", tmp_path / "cache") == clone
        assert commit_ids(clone, ("HEAD",))[0] == new
        made.git("branch", "-m", "main", "other")
        made.git("checkout", "-q", "-b", "main", "HEAD~1")
        mirror(f"{url}/name/.git", tmp_path / "cache")
        assert len(commit_ids(clone, ("HEAD",))) == 1  # what is gone there is gone here


def test_servers_that_fail_leave_nothing(tmp_path: Path, served: tuple[Repository, str]) -> None:
    _, url = served
    with pytest.raises(GitError, match="git clone failed: fatal"):
        mirror(url.replace("owner/name", "owner/absent"), tmp_path)
    with pytest.raises(GitError, match="git clone failed: fatal"):
        mirror(f"git://127.0.0.1:{free_port()}/owner/name", tmp_path)
    with pytest.raises(GitError, match="not done after"):
        mirror(url, tmp_path, timeout=0.0001)
    assert names(tmp_path) == set()


def test_a_cut_connection_leaves_the_clone_as_it_was(tmp_path: Path) -> None:
    made = Repository(tmp_path / "served" / "name")
    made.commit({"a.py": b"1\n"})
    with git_daemon(tmp_path / "served") as url:
        clone = mirror(f"{url}/name/.git", tmp_path / "cache")
    with pytest.raises(GitError, match="git fetch failed"):
        mirror(f"{url}/name/.git", tmp_path / "cache")
    assert len(commit_ids(clone, ("HEAD",))) == 1


def test_urls_that_run_commands_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "RAN"
    for url in (f"ext::sh -c touch% {marker}", f"ext://touch {marker}", "ftp://a/b", "data://x/y"):
        with pytest.raises(OctoError):
            mirror(url, tmp_path / "cache")
    with pytest.raises(OctoError, match="the protocol 'ftp' is not taken"):
        check_url("ftp://a/b")
    for option in (f"--upload-pack=touch {marker}", f"-u touch {marker}"):
        with pytest.raises(GitError):
            mirror(option, tmp_path / "cache")
    assert not marker.exists()


def test_names_of_urls() -> None:
    assert {
        url: name_of_url(url) for url in ("https://h/a/b.git", "git@h:a/b", "https://h/x/a/b/", "git://h/b.git")
    } == {
        "https://h/a/b.git": "a/b",
        "git@h:a/b": "a/b",
        "https://h/x/a/b/": "a/b",
        "git://h/b.git": "b",
    }
    assert [is_url(text) for text in ("https://h/a", "git@h:a/b", "a/b", "/a/b", "C", "./a:b")] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


def test_places_in_the_cache_differ_and_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ("https://h/a/b", "https://g/a/b", "https://h/../../b", "https://h/a/b;rm")
    places = [place_of(url, tmp_path, blobless=blobless) for url in urls for blobless in (False, True)]
    assert len(set(places)) == 8
    assert all(place.parent == tmp_path and place.resolve() == place for place in places)
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    assert cache_root() == tmp_path / "megatron_octo" / "git"
