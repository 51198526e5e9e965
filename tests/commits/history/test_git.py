import os
from pathlib import Path

import pytest

from megatron_octo.commits.history.git import GitError, environment, find_directory, reason, run, settings_of
from megatron_octo.common.errors import OctoError
from tests.commits.history.made import Repository


def test_directories_are_found(tmp_path: Path) -> None:
    made = Repository(tmp_path / "a b\n$(c)")
    made.commit({"a.py": b"1\n"})
    bare = made.bare(tmp_path / "bare.git")
    made.git("worktree", "add", "-q", os.fspath(tmp_path / "tree"))
    assert find_directory(made.path) == made.path / ".git" == find_directory(made.path / ".git")
    assert find_directory(bare) == bare
    found = find_directory(tmp_path / "tree")
    assert found is not None and found.parent == made.path / ".git" / "worktrees"
    (tmp_path / "empty").mkdir()
    (tmp_path / "false").mkdir()
    (tmp_path / "false" / "HEAD").write_text("ref: refs/heads/main\n")
    assert find_directory(tmp_path / "empty") is None and find_directory(tmp_path / "false") is None


def test_settings_without_a_file(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    made.git("config", "remote.origin.url", "https://h/a\nb")
    assert settings_of(made.path / ".git")["remote.origin.url"] == "https://h/a\nb"
    (made.path / ".git" / "config").unlink()
    assert settings_of(made.path / ".git") == {}


def test_variables_of_the_caller_do_not_lead_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Repository(tmp_path / "repository")
    commit = made.commit({"a.py": b"1\n"})
    for name in (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_INDEX_FILE",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    ):
        monkeypatch.setenv(name, os.fspath(tmp_path))
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    assert run(made.path / ".git", "rev-parse", "HEAD").decode().strip() == commit
    assert "GIT_SSL_NO_VERIFY" in environment(local=False) and "GIT_SSL_NO_VERIFY" not in environment(local=True)
    assert environment(local=False)["GIT_TERMINAL_PROMPT"] == "0"


def test_failures_name_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GitError, match="git rev-parse failed: fatal: not a git repository"):
        run(tmp_path, "rev-parse", "HEAD")
    assert reason(b"warning: a\nfatal: b\x1b[0m\n") == "fatal: b\\x1b[0m"
    assert reason(b"") == "no message"
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(OctoError, match="git is not installed"):
        run(tmp_path, "version")
