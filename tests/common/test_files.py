"""Complete or not there: whatever goes wrong while a file or a directory is written."""

import errno
import hashlib
import multiprocessing
import os
import resource
from pathlib import Path

import pytest
import xxhash

from megatron_octo.common import files, jsonl
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import new_directory, read_json
from megatron_octo.common.records import or_none, read_record
from tests.leftovers import left_by_a_kill


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_digests_agree(tmp_path: Path) -> None:
    data = hashlib.sha512(b"seed").digest() * 100_000  # more than one chunk
    (tmp_path / "a").write_bytes(data)
    expected = f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}"
    assert files.digest_file(tmp_path / "a") == files.digest_bytes(data[:10], data[10:]) == expected
    assert files.digest_bytes() == "xxh3-128:99aa06d3014798d86001c324468d497f"
    assert files.digest_json({"a": 1, "b": [1.5]}) == files.digest_json({"b": [1.5], "a": 1})
    assert files.digest_json({"a": 1}) != files.digest_json({"a": 2})


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError(errno.ENOSPC, "full")])
def test_atomic_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException] | BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    kind = type(error) if isinstance(error, BaseException) else error
    with pytest.raises(kind), files.atomic_write(path, "w") as file:
        file.write("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_when_the_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    with pytest.raises(OSError, match="broken disk"), files.atomic_write(tmp_path / "a") as file:
        file.write(b"new")
        monkeypatch.setattr(files.os, call, fail)
    assert names(tmp_path) == []


def _write_over_the_limit(folder: Path, answers: "multiprocessing.Queue[object]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        files.write_json(folder / "a.json", {"new": "x" * 100_000})
    except OSError as error:
        answers.put((error.errno, names(folder), (folder / "a.json").read_text()))


def test_atomic_write_at_a_real_limit(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"old": "é"})
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[object] = context.Queue()
    process = context.Process(target=_write_over_the_limit, args=(tmp_path, answers))
    process.start()
    assert answers.get(timeout=20) == (errno.EFBIG, ["a.json"], '{\n "old": "é"\n}\n')
    process.join()


def test_atomic_write_writes(tmp_path: Path) -> None:
    with files.atomic_write(tmp_path / "a", "w") as file:
        file.write("äöü")
        assert names(tmp_path) == [files.beside(tmp_path / "a").name]
    assert (tmp_path / "a").read_bytes() == "äöü".encode()
    assert names(tmp_path) == ["a"]


def test_atomic_directory(tmp_path: Path) -> None:
    with files.atomic_directory(tmp_path / "deep" / "out") as aside:
        (aside / "sub").mkdir()
        (aside / "sub" / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "sub" / "file").read_text() == "x"
    assert names(tmp_path / "deep") == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_directory_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), files.atomic_directory(tmp_path / "out") as aside:
        (aside / "file").write_text("x")
        raise error
    assert names(tmp_path) == []


def test_atomic_directory_and_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with files.atomic_directory(tmp_path / "empty") as aside:
        (aside / "file").write_text("x")
    for path in (tmp_path / "empty", tmp_path / "empty" / "file"):
        with pytest.raises(OctoError, match="exists already"), files.atomic_directory(path):
            pass
    assert names(tmp_path) == ["empty"]


def test_what_a_killed_process_left_does_not_disturb(tmp_path: Path) -> None:
    left = files.beside(tmp_path / "out")
    left.mkdir()
    (left / "half").write_text("x")
    with files.atomic_directory(tmp_path / "out") as aside:
        (aside / "whole").write_text("y")
    assert names(tmp_path / "out") == ["whole"]


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / "a[1].json").write_text("whole")
    for name in ("a[1].json", "b", "c"):
        left_by_a_kill(tmp_path / name)
    files.remove_leftovers(tmp_path, "a[[]1].json")
    assert [name.split(".")[1] for name in names(tmp_path)] == ["b", "c", "json"]
    files.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a[1].json"]


def test_read_json(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no such file") as error:
        files.read_json(tmp_path / "a")
    assert error.value.where == tmp_path / "a"
    for content in (b"{", b"\xff\xfe\x00", b""):
        (tmp_path / "b").write_bytes(content)
        with pytest.raises(OctoError, match="not valid JSON"):
            files.read_json(tmp_path / "b")


@pytest.mark.parametrize("kind", ["pipe", "loop"])
def test_a_pipe_or_a_loop_in_place_of_a_record_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)
    what = {"pipe": "a pipe, socket or device", "loop": "a symbolic link that leads to itself"}[kind]
    with pytest.raises(OctoError, match=what):
        read_json(path)
    problems: list[str] = []
    assert jsonl.read(path, jsonl.ANY, problems.append) == []
    assert len(problems) == 1
    assert or_none(lambda: read_record(path, jsonl.ANY), problems.append) is None
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        jsonl.append(path, {"a": 1})


@pytest.mark.parametrize("name", ["a", "a/deeper"])
def test_links_in_a_circle_are_no_place(tmp_path: Path, name: str) -> None:
    """Python 3.12 raises at them, 3.13 leaves them in the resolved path."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OctoError, match="lead to each other"):
        new_directory(tmp_path / name)
