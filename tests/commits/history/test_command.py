"""``commits history`` as a command: several repositories, parts, kills, failures."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.history import stage
from megatron_octo.commits.rows import read_rows
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from tests.commits.history.daemon import git_daemon
from tests.commits.history.made import Repository, typical


def history(*words: object) -> int:
    return main(["history", *map(str, words)])


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*"))}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "PART", 7)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return typical(tmp_path_factory.mktemp("typical") / "repository")[0]


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_several_repositories_in_their_order_whatever_the_processes(
    tmp_path: Path, made: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Repository(tmp_path / "other")
    for number in range(9):
        other.commit({"a.py": str(number).encode()})
    with git_daemon(made.path.parent) as url:
        words = [
            made.path,
            f"o/other={other.path}",
            f"{url}/repository/.git",
            f"x/y={url}/repository/.git",
            "--cache",
            tmp_path / "cache",
        ]
        assert history(*words, "--output", tmp_path / "one", "--jobs", 1) == 0
        assert history(*words, "--output", tmp_path / "two", "--jobs", 2) == 0
    assert parts(tmp_path / "one") == parts(tmp_path / "two") and len(parts(tmp_path / "one")) > 10
    rows = list(read_rows(tmp_path / "one"))
    names = list(dict.fromkeys(row.repos for row in rows))
    assert names == ["repository", "o/other", "x/y"]
    manifest = read_json(tmp_path / "one" / "stage.json")
    assert manifest["rows"] == len(rows) == manifest["kept"] + sum(manifest["dropped"].values())
    assert set(manifest["dropped"]) == {"binary", "undecodable"}
    out = capsys.readouterr().out
    assert "commits of 4 repositories" in out and "undecodable" in out


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_rows_do_not_depend_on_the_clone(tmp_path: Path, made: Repository) -> None:
    made.git("config", "uploadpack.allowFilter", "true")
    with git_daemon(made.path.parent) as url:
        words = [f"a/b={url}/repository/.git", "--cache", tmp_path / "cache"]
        for name, more in (("full", []), ("blobless", ["--blobless"])):
            assert history(*words, "--output", tmp_path / f"{name}.jsonl", "--jobs", 1, *more) == 0
    assert history(f"a/b={made.path}", "--output", tmp_path / "local.jsonl", "--jobs", 1) == 0
    texts = {(tmp_path / f"{name}.jsonl").read_text() for name in ("full", "blobless", "local")}
    assert len(texts) == 1


@pytest.mark.usefixtures("small_parts")
def test_new_commits_are_another_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Repository(tmp_path / "repository")
    for number in range(9):
        made.commit({"a.py": str(number).encode()})
    words = (made.path, "--output", tmp_path / "out", "--jobs", 1)
    history(*words)
    history(*words)
    assert "complete already" in capsys.readouterr().err
    made.commit({"a.py": b"new"})
    with pytest.raises(OctoError, match="exists already"):
        history(*words)


def test_choices(tmp_path: Path, made: Repository) -> None:
    def count(name: str, *words: object) -> int:
        history(made.path, "--output", tmp_path / name, "--jobs", 1, *words)
        return sum(1 for _ in read_rows(tmp_path / name))

    every = count("every", "--all")
    assert count("newest", "--max-commits", 3) == 3
    assert count("main", "--rev", "main~5", "--rev", "side") < every
    assert count("alone", "--alone") < every < count("creations", "--creations")
    assert count("left_out", "--drop") == sum(row.kept for row in read_rows(tmp_path / "every"))
    history(made.path, "--output", tmp_path / "licensed", "--license", "isc", "--jobs", 1)
    assert {row.license for row in read_rows(tmp_path / "licensed")} == {"isc"}


def test_failures_stop_or_are_left_out(tmp_path: Path, made: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    with git_daemon(made.path.parent) as url:
        words = [f"{url}/absent", made.path, "--cache", tmp_path / "cache", "--jobs", 1]
        with pytest.raises(OctoError, match="git clone failed"):
            history(*words, "--output", tmp_path / "out")
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.work").exists()
        assert history(*words, "--output", tmp_path / "out", "--on-error", "skip") == 1
    assert "left out: git://" in capsys.readouterr().err
    assert sum(1 for _ in read_rows(tmp_path / "out")) > 20
    with pytest.raises(OctoError, match="git rev-parse failed"):
        history(made.path, "--rev", "absent", "--output", tmp_path / "other")


def test_bad_arguments_are_refused_before_anything_is_there(tmp_path: Path, made: Repository) -> None:
    for words, what in (
        ([], "no repository"),
        ([tmp_path / "absent"], "no such repository"),
        ([tmp_path], "not a git repository"),
        ([made.path, "--max-commits", 0], "at least 1"),
        ([made.path, "--max-bytes", -1], "at least 1"),
        ([made.path, "--roots"], "--roots needs --creations"),
        ([made.path, "--rev=-n1"], "a revision does not begin"),
        ([made.path, "--jobs", 0], "at least 1"),
    ):
        with pytest.raises(OctoError, match=what):
            history(*words, "--output", tmp_path / "out")
        assert not list(tmp_path.iterdir())


def test_a_repository_without_commits(tmp_path: Path) -> None:
    made = Repository(tmp_path / "empty")
    assert history(made.path, "--output", tmp_path / "out", "--jobs", 1) == 0
    assert list(read_rows(tmp_path / "out")) == []


def test_a_list_of_repositories(tmp_path: Path, made: Repository) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"# mine\n\n{made.path}\n")
    assert history("--list", listed, "--output", tmp_path / "out.jsonl", "--jobs", 1) == 0
    assert sum(1 for _ in read_rows(tmp_path / "out.jsonl")) > 20


def test_the_exit_code_of_bad_input_is_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "megatron_octo.commits", "history", os.fspath(tmp_path), "--output", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd(), check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: not a git repository")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_kills_give_the_same_bytes(tmp_path: Path) -> None:
    """A part is finished, then everything is killed; the part stays as it is, and the output is what it would be."""
    made = Repository(tmp_path / "repository")
    stream = []
    for number in range(180):
        text = b"x = %d\n" % number * 9
        stream.append(b"commit refs/heads/main\ncommitter A <a@b> %d +0000\ndata 1\nc\n" % (1600000000 + number))
        stream.append(b"M 100644 inline a.py\ndata %d\n%s\n" % (len(text), text))
    made.git("fast-import", "--quiet", data=b"".join(stream))
    program = (
        "import sys\nfrom megatron_octo.commits.history import stage\nfrom megatron_octo.commits.__main__ import main\n"
        "stage.PART = 3\n"
        "if __name__ == '__main__':\n    sys.exit(main(['history', *sys.argv[1:], '--jobs', '1']))\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script), str(made.path), "--output"]
    subprocess.run([*command, str(tmp_path / "wanted")], env=environment, check=True)
    work = tmp_path / "out.work"
    kills = 0
    for wanted in (1, 20, 60):
        process = subprocess.Popen([*command, str(tmp_path / "out")], env=environment, start_new_session=True)
        while process.poll() is None and len(list(work.glob("part-*.json"))) < wanted:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    subprocess.run([*command, str(tmp_path / "out")], env=environment, check=True)
    assert parts(tmp_path / "out") == parts(tmp_path / "wanted")
