"""Uploads, against a Hub of this test's own: private, verified, and repeated without converting again."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_octo.conversion.proof.verify import Comparison
from megatron_octo.convert import main
from tests.conversion.commands import assert_refused, run
from tests.conversion.models import small_model, write_hf
from tests.distributed import run_forked
from tests.places import PROJECT


class Hub:
    """What a client asked for."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.uploaded: dict[str, int] = {}
        self.down = self.logged_out = False

    def client(self, **_: Any) -> "Hub":
        return self

    def whoami(self) -> None:
        self.calls.append("whoami")
        if self.logged_out:
            raise RuntimeError("401: no token")

    def create_repo(self, repository: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.calls.append((repository, "private" if private else "public"))

    def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        self.calls.append(("upload", repo_id))
        if self.down:
            raise ConnectionError("the connection broke\nand more")
        files = [path for path in Path(folder_path).rglob("*") if path.is_file()]
        self.uploaded = {path.name: path.stat().st_mtime_ns for path in files}
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub.client)
    return hub


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("push") / "hf"
    write_hf(directory, small_model())
    return directory


@pytest.mark.parametrize(("options", "seen"), [([], "private"), (["--public"], "public")])
def test_what_is_made_is_private_unless_said_otherwise(
    options: list[str], seen: str, hub: Hub, hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = run(capfd, "to-hf", hf, tmp_path / "out", "--push", "me/model", *options)
    assert code == 0 and "https://hub/me/model/commit/1" in said
    assert hub.calls == ["whoami", ("me/model", seen), ("upload", "me/model")]
    assert set(hub.uploaded) == {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "conversion.json"} <= set(hub.uploaded)


def test_the_login_is_asked_for_before_the_work(
    hub: Hub, hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.logged_out = True
    assert_refused(capfd, "401: no token", "to-hf", hf, tmp_path / "out", "--push", "me/model")
    assert not list(tmp_path.iterdir())


def test_a_failed_upload_is_repeated_alone(
    hub: Hub, hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.down = True
    command: list[str | Path] = ["to-hf", hf, tmp_path / "out", "--push", "me/model"]
    assert_refused(capfd, "the connection broke\n", *command)
    weights = tmp_path / "out/model.safetensors"
    before = weights.stat()
    hub.down = False
    code, said, _ = run(capfd, *command)
    assert code == 0 and "of this input and these options" in said
    after = weights.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert hub.uploaded["model.safetensors"] == before.st_mtime_ns
    # Other options, another input, no --push: it is not what was asked for, and stays as it is.
    assert_refused(capfd, "exists already", *command, "--dtype", "bf16")
    shutil.copytree(hf, tmp_path / "other")
    assert_refused(capfd, "exists already", "to-hf", tmp_path / "other", *command[2:])
    assert_refused(capfd, "exists already", *command[:3])
    # And damaged it is not uploaded.
    hub.uploaded = {}
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert_refused(capfd, "model.safetensors has changed since it was written", *command)
    weights.unlink()
    assert_refused(capfd, "model.safetensors is missing", *command)
    assert not hub.uploaded


@pytest.mark.parametrize("good", [True, False])
def test_what_differs_is_not_uploaded(
    good: bool,
    hub: Hub,
    hf: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compare(source: str, other: str, *_: Any) -> Comparison:
        assert Path(other, "config.json").is_file() and "upload" not in str(hub.calls)
        return Comparison(good, 0.0, None, 0.0 if good else 9.0, 0.0, 1.0, 24)

    monkeypatch.setattr("megatron_octo.conversion.proof.verify.verify", compare)
    command: list[str | Path] = [
        "to-hf",
        hf,
        tmp_path / "out",
        "--push",
        "me/model",
        "--verify",
        "--tolerance",
        "0.5",
    ]
    code, said, _ = run(capfd, *command)
    assert (code, bool(hub.uploaded)) == ((0, True) if good else (1, False))
    assert "tolerance 5e-01: " + ("ok" if good else "FAILED") in said


def test_convert_and_verify_in_one(hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["to-hf", str(hf), str(tmp_path / "out"), "--verify"]
    for said in ("every value as it was", "it is there already"):
        assert run_forked(main, command) == 0
        out = capfd.readouterr().out
        assert said in out and "weights bit-equal" in out
    assert run_forked(main, ["to-hf", str(hf), str(tmp_path / "bf16"), "--verify", "--dtype", "bf16"]) == 1
    assert "FAILED" in capfd.readouterr().out


def scripted(script: str, tmp_path: Path, *words: str, **variables: str) -> list[list[str]]:
    """The commands that a script of ``convert/`` calls."""
    log, stub = tmp_path / "log", tmp_path / "python"
    stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\n')
    stub.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(stub), **variables}
    subprocess.run(["bash", str(PROJECT / "convert" / script), *words], env=environment, check=True)
    found = [line.split() for line in log.read_text().splitlines()]
    assert all(words[:2] == ["-m", "megatron_octo.convert"] for words in found)
    return [words[2:] for words in found]


def test_scripts_verify_first_and_push_privately(tmp_path: Path) -> None:
    """It is the command that asks for the login first, verifies, and uploads in that order."""
    assert scripted("to_hf.sh", tmp_path, "run", "out", "--push", "me/model", TOLERANCE="0.5") == [
        ["to-hf", "run", "out", "--push", "me/model", "--verify", "--tolerance", "0.5"]
    ]
    (tmp_path / "log").unlink()
    found = scripted("convert_large.sh", tmp_path, "run", "out", PUSH="me/model", DTYPE="bf16")
    assert found == [
        ["show", "run"],
        ["to-hf", "run", "out", "--dtype", "bf16", "--push", "me/model", "--verify"],
    ]
    (tmp_path / "log").unlink()
    found = scripted("convert_large.sh", tmp_path, "run", "out", PUSH="me/model", PUBLIC="1", VOCAB_SIZE="9")
    assert found == [
        ["show", "run", "--vocab-size", "9"],
        ["to-hf", "run", "out", "--vocab-size", "9", "--push", "me/model", "--public", "--verify"],
    ]
    for script in (PROJECT / "convert").iterdir():
        assert "hf upload" not in script.read_text()
