"""``commits scrape`` against real servers: every blob is the right one, whatever fails, and nothing is executed."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.clean.edits import blob_id
from megatron_octo.commits.rows import Row, read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.history.daemon import free_port, git_daemon
from tests.commits.scrape.made import make_repository, rows_of, without_contents, write
from tests.commits.scrape.servers import Server, http_server
from tests.places import PROJECT

FAST = ("--rate", "1000", "--contact", "made@example.org", "--max-bytes", "5000")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("served")
    for seed, name in enumerate(("ada/first", "bob/second")):
        make_repository(base, name, seed)
    return base


@pytest.fixture(scope="module")
def full(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("rows")
    return [row for name in ("ada/first", "bob/second") for row in rows_of(base, name, folder)]


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    with http_server(base) as found:
        yield found


@pytest.fixture(autouse=True)
def no_fault(server: Server) -> None:
    server.fault = lambda path: None
    server.requests.clear()


def words_of(source: Path, output: Path, url: str) -> list[str]:
    return ["scrape", str(source), "--output", str(output), "--host-url", f"{url}/{{repo}}.git", *FAST]


def scrape(folder: Path, rows: list[Row], url: str, *more: str, code: int = 0) -> list[Row]:
    source, output = folder / "in.parquet", folder / "out.jsonl"
    if not source.exists():
        write(source, rows)
    assert (
        main(["scrape", str(source), "--output", str(output), "--host-url", f"{url}/{{repo}}.git", *FAST, *more])
        == code
    )
    return list(read_rows(output))


def own(full: list[Row]) -> list[Row]:
    """Rows whose contents only their repository has."""
    return [row for row in full if row.kept and row.new_file != "empty.py"]


def check(found: list[Row], full: list[Row]) -> None:
    assert len(found) == len(full)
    for row, wanted in zip(found, full):
        kept = wanted.drop is None
        assert (row.commit, row.drop is None) == (wanted.commit, kept), (row.drop, wanted.drop)
        if kept:
            assert (row.old_contents, row.new_contents) == (wanted.old_contents, wanted.new_contents)
            assert (blob_id(row.old_contents), blob_id(row.new_contents)) == (wanted.old_blob, wanted.new_blob)


@pytest.mark.slow
@pytest.mark.parametrize("blobs", [True, False])
@pytest.mark.parametrize("kind", ["http", "daemon"])
def test_contents_equal_those_of_the_history(
    tmp_path: Path, base: Path, full: list[Row], server: Server, kind: str, blobs: bool
) -> None:
    rows = without_contents(full, blobs=blobs)
    if kind == "http":
        found = scrape(tmp_path, rows, server.url)
        assert any("made@example.org" in agent for agent in server.agents)
        assert sum(server.requests.values()) < 20  # not one for each row
    else:
        with git_daemon(base) as url:
            found = scrape(tmp_path, rows, url)
    whole = [
        row if row.old_blob else replace(row, old_blob=old.old_blob, new_blob=old.new_blob)
        for row, old in zip(found, full)
    ]
    check(whole, full)
    states = {row.signals["scrape"] for row in found}
    assert {"ok", "binary", "undecodable", "too_large"} <= states
    assert not list(base.rglob("EXECUTED")) and not list(tmp_path.rglob("EXECUTED"))


def test_every_repository_of_a_row_is_tried(tmp_path: Path, full: list[Row], server: Server) -> None:
    first = [row for row in full if row.repos == "ada/first"]
    rows = [replace(row, repos="aa/gone,ada/first,bob/second") for row in without_contents(first)]
    check(scrape(tmp_path, rows, server.url), first)
    assert server.requests["aa/gone"]


def test_states(tmp_path: Path, full: list[Row], server: Server) -> None:
    good = without_contents(own(full))[0]
    rows = [
        replace(good, repos="aa/gone"),
        replace(good, repos="bob/second"),
        replace(good, repos=""),
        replace(good, old_blob="e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", repos="ada/first"),
        replace(good, new_blob="0" * 40),
        replace(good, old_blob=None),
    ]
    found = scrape(tmp_path, rows, server.url)
    states = [row.signals["scrape"] for row in found]
    assert states == ["ok", "ok", "ok", "ok", "not_found", "ok"]  # a blob is one, whichever row names its repository
    assert (found[3].old_contents, found[5].old_contents) == ("", None)


@pytest.mark.slow
def test_repositories_that_are_gone_or_lack_it(tmp_path: Path, full: list[Row], server: Server) -> None:
    good = without_contents(own(full))[0]
    for name, repos, state in (("a", "aa/gone", "repo_gone"), ("b", "bob/second", "not_found"), ("c", "", "not_found")):
        folder = tmp_path / name
        folder.mkdir()
        (row,) = scrape(folder, [replace(good, repos=repos)], server.url)
        assert (row.drop, row.signals["scrape"]) == (state, state)
    server.fault = lambda path: 401
    folder = tmp_path / "d"
    folder.mkdir()
    (row,) = scrape(folder, [good], server.url)
    assert row.drop == "repo_gone"  # it asks for a password: not public


@pytest.mark.parametrize(
    "repos",
    [
        "../ada/first",
        "-oProxyCommand=touch EXECUTED/x",
        "ext::sh -c touch% EXECUTED/x",
        "a/b;touch EXECUTED",
        "$(touch x)/y",
    ],
)
def test_names_that_are_no_repositories_are_not_asked(
    tmp_path: Path, full: list[Row], server: Server, repos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = without_contents(own(full))[0]
    (row,) = scrape(tmp_path, [replace(good, repos=repos)], server.url)
    assert row.drop == "repo_gone" and not server.requests
    assert not list(tmp_path.rglob("EXECUTED")) and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_refusal_is_waited_for(tmp_path: Path, full: list[Row], server: Server) -> None:
    refusals = iter([429, 503])
    server.fault = lambda path: next(refusals, None)
    started = time.monotonic()
    check(scrape(tmp_path, without_contents(full), server.url), full)
    assert time.monotonic() - started >= 1  # Retry-After


@pytest.mark.slow
def test_a_host_that_keeps_refusing_ends_the_work_and_a_later_start_goes_on(
    tmp_path: Path, full: list[Row], server: Server
) -> None:
    server.fault = lambda path: 403 if "second" in path else None
    rows = without_contents(full)
    with pytest.raises(OctoError, match="requests in a row were refused"):
        scrape(tmp_path, rows, server.url, "--refusals", "2", "--in-flight", "1")
    assert not (tmp_path / "out.jsonl").exists()
    server.fault = lambda path: None
    server.requests.clear()
    check(scrape(tmp_path, rows, server.url), full)
    assert not server.requests["ada/first"]  # it was finished


@pytest.mark.parametrize(("fault", "state"), [("slow", "timeout"), ("truncated", "broken")])
def test_transient_failures_are_asked_again(
    tmp_path: Path, full: list[Row], server: Server, fault: str, state: str
) -> None:
    server.fault = lambda path: fault if "second" in path and path.endswith("upload-pack") else None
    some = own(full)
    some = [*some[:3], *[row for row in some if row.repos == "bob/second"][:2]]
    rows = without_contents(some)
    found = scrape(tmp_path, rows, server.url, "--timeout", "2", code=1)
    assert [row.drop for row in found[3:]] == [state, state]
    check(found[:3], some[:3])
    server.fault = lambda path: None
    check(scrape(tmp_path, rows, server.url, "--retry"), some)


@pytest.mark.slow
def test_a_dead_server(tmp_path: Path, full: list[Row]) -> None:
    with pytest.raises(OctoError, match="refused, or not answered"):
        scrape(tmp_path, without_contents(full)[:2], f"http://127.0.0.1:{free_port()}", "--refusals", "2")
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "b").mkdir()
        found = scrape(tmp_path / "b", without_contents(full)[:1], url, "--timeout", "1", code=1)
        assert found[0].drop == "timeout"


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path, full: list[Row], server: Server) -> None:
    rows = without_contents(full)
    scrape(tmp_path, rows, server.url)
    wanted = (tmp_path / "out.jsonl").read_bytes()
    folder = tmp_path / "killed"
    folder.mkdir()
    source = write(folder / "in.parquet", rows)
    words = [
        "scrape",
        str(source),
        "--output",
        str(folder / "out.jsonl"),
        "--host-url",
        f"{server.url}/{{repo}}.git",
        *FAST,
    ]
    command = [sys.executable, "-m", "megatron_octo.commits", *words]
    moments, kills = random.Random(1), 0
    for _ in range(5):
        process = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.3, 1.2))
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    assert kills and (folder / "out.jsonl").read_bytes() == wanted


@pytest.mark.parametrize(
    "words",
    [
        ["--host-url", "https://host/repo.git"],
        ["--host-url", "ext::sh -c x {repo}"],
        ["--host-url", "{repo}"],
        ["--rate", "0"],
        ["--timeout", "-1"],
    ],
)
def test_wrong_options(tmp_path: Path, full: list[Row], words: list[str]) -> None:
    source = write(tmp_path / "in.jsonl", without_contents(full)[:1])
    with pytest.raises(OctoError):
        main(["scrape", str(source), "--output", str(tmp_path / "out"), "--contact", "x", *words])
    with pytest.raises(OctoError, match="no --contact"):
        main(["scrape", str(source), "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_manifest_counts(tmp_path: Path, full: list[Row], server: Server) -> None:
    scrape(tmp_path, without_contents(full), server.url)
    manifest = json.loads((tmp_path / "out.jsonl.stage.json").read_text())
    assert manifest["rows_in"] == len(full) and manifest["kept"] == sum(row.kept for row in full)
    assert manifest["rows"] == manifest["kept"] + sum(manifest["dropped"].values())
