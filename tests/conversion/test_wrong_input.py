"""Behaviour of the commands on wrong input: named, exit code 2, no result, and nothing in it is run."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.conversion.writers.to_hf import to_hf
from tests import disks
from tests.conversion.commands import assert_refused
from tests.conversion.models import small_model, write_hf
from tests.conversion.readers.test_bigcode import Payload

SHARD = "model-00002-of-00003.safetensors"
RANK = "release/mp_rank_01_001/model_optim_rng.pt"
PART = "weights-tp01-pp00.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the three formats; a test copies what it spoils."""
    folder = tmp_path_factory.mktemp("wrong")
    write_hf(folder / "plain", small_model())
    to_hf(folder / "plain", folder / "hf", shard_bytes=80_000)
    write_checkpoint(open_weights(folder / "plain"), folder / "ours", tensor=2)
    to_bigcode(open_weights(folder / "plain"), folder / "legacy", tensor=2, pipeline=2)
    return folder


def another_architecture(source: Path) -> None:
    if (source / "config.json").exists():
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
        (source / "conversion.json").unlink(missing_ok=True)
        return
    for file in source.rglob("*.pt"):  # of a model with as many keys as queries
        tree = torch.load(file, weights_only=False)
        encoder = tree["model"]["language_model"]["encoder"]
        for key in [key for key in encoder if ".key_value." in key or ".query." in key]:
            encoder[key.replace("key_value", "query_key_value")] = encoder.pop(key)
        torch.save(tree, file)


def remove(name: str) -> Callable[[Path], None]:
    return lambda source: (source / name).unlink()


def flip(name: str) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        data = bytearray((source / name).read_bytes())
        data[len(data) // 4] ^= 1
        (source / name).write_bytes(data)

    return change


def plant(source: Path) -> None:
    tree = torch.load(source / RANK, weights_only=False)
    torch.save({**tree, "extra": Payload(source.parent / "it-ran")}, source / RANK)


WRONG: list[tuple[str, Callable[[Path], None], str]] = [
    ("hf", another_architecture, "architecture 'llama', expected one of"),
    ("legacy", another_architecture, "not a multi-query GPT of BigCode's"),
    ("hf", remove(SHARD), f"missing\n.*{SHARD}"),
    ("legacy", remove(RANK), "mp_rank_01_001"),
    ("ours", remove(PART), PART),
    ("hf", flip(SHARD), f"{SHARD} has changed"),
    ("legacy", flip(RANK), r"damaged(.|\n)*mp_rank_01_001"),
    ("ours", flip(PART), f"{PART} has changed"),
    ("legacy", plant, r"posix.system(.|\n)*mp_rank_01_001"),
]


@pytest.mark.parametrize(("source", "spoil", "words"), WRONG)
def test_wrong_input(
    source: str,
    spoil: Callable[[Path], None],
    words: str,
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(folder / source, tmp_path / source)
    spoil(tmp_path / source)
    commands = ["to-hf", "reshard", "to-bigcode"]
    commands += {"hf": ["from-hf"], "legacy": ["from-bigcode"]}.get(source, [])
    for command in commands:
        assert_refused(capfd, words, command, tmp_path / source, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == [source]
    assert_refused(capfd, words, "verify", tmp_path / source, folder / "plain")
    assert [path.name for path in tmp_path.iterdir()] == [source]


def test_a_full_disk(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One that was too small from the start; test_formats has those that fill up on the way."""
    with disks.small_disk(tmp_path / "disk", "400k") as place:
        for source, command in (("hf", "from-hf"), ("legacy", "from-bigcode"), ("ours", "to-hf")):
            assert_refused(capfd, "GB free", command, folder / source, place / "out")
            assert not list(place.iterdir())


@pytest.mark.slow
def test_as_a_process(folder: Path, tmp_path: Path) -> None:
    """The exit code and the two streams that a shell sees."""
    shutil.copytree(folder / "legacy", tmp_path / "legacy")
    plant(tmp_path / "legacy")
    command = [sys.executable, "-m", "megatron_octo.convert", "from-bigcode", "legacy", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: its pickle asks for 'posix.system'")
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["legacy"]
