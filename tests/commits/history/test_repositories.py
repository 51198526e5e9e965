from pathlib import Path

import pytest

from megatron_octo.commits.history.remote import mirror
from megatron_octo.commits.history.repositories import (
    Clones,
    Opening,
    find_licence,
    open_repository,
    parse_repository,
)
from megatron_octo.common.errors import OctoError
from tests.commits.history.daemon import git_daemon
from tests.commits.history.made import Repository

MIT = (
    b"MIT License\n\nPermission is hereby granted, free of charge, to any person\nobtaining a copy of this ...\n"
    b"The above copyright notice and this permission notice shall be\nincluded in all copies ...\n"
)


def named(text: str, clones: Path) -> str:
    return open_repository(parse_repository(text), Clones(clones), "mit").name


def test_names_in_the_rows(tmp_path: Path) -> None:
    made = Repository(tmp_path / "here")
    made.commit({"a.py": b"1\n"})
    bare = made.bare(tmp_path / "there.git")
    assert named(str(made.path), tmp_path) == "here"
    assert named(str(made.path / ".git"), tmp_path) == "here"
    assert named(f"owner/name={made.path}", tmp_path) == "owner/name"
    assert named(str(bare), tmp_path) == "there"  # its origin is a path
    made.git("remote", "add", "origin", "git@github.com:some/thing.git")
    assert named(str(made.path), tmp_path) == "some/thing"


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Repository(tmp_path / "a=b")
    made.commit({"a.py": b"1\n"})
    monkeypatch.chdir(tmp_path)
    assert parse_repository("a=b").name is None
    assert parse_repository("https://h/a?b=c").remote
    assert parse_repository("x/y=https://h/a").name == "x/y"


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no such repository"):
        parse_repository(str(tmp_path / "absent"))
    with pytest.raises(OctoError, match="not a git repository"):
        parse_repository(str(tmp_path))
    with pytest.raises(OctoError, match="protocol 'ext' is not taken"):
        parse_repository("ext://a")


def test_licences_by_the_repositorys_own_file(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    assert find_licence(made.path / ".git") == "unknown"
    made.commit({"a.py": MIT, "docs/LICENSE": MIT})
    assert find_licence(made.path / ".git") == "unknown"
    made.commit({"LICENSE.md": MIT})
    assert find_licence(made.path / ".git") == "mit"
    made.commit({"COPYING": b"GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n", "LICENCE": b"\xff"})
    assert find_licence(made.path / ".git") == "gpl-3.0,mit"
    made.git("config", "uploadpack.allowFilter", "true")
    with git_daemon(tmp_path) as url:
        clone = mirror(f"{url}/repository/.git", tmp_path / "cache", blobless=True)
        assert find_licence(clone) == "gpl-3.0,mit"


def test_several_are_opened_and_a_failure_stays_with_its_own(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    made.commit({"a.py": b"1\n"})
    with git_daemon(tmp_path) as url:
        texts = [f"{url}/repository/.git", f"{url}/absent", str(made.path)]
        repositories = [parse_repository(text) for text in texts]
        with Opening(repositories, Clones(tmp_path / "cache"), None, 2) as opened:
            assert [opened[number].license for number in (0, 2)] == ["unknown"] * 2
            with pytest.raises(OctoError, match="git clone failed"):
                opened[1]
