"""Behaviour on mistakes of the command line: reported before the work, with exit code 2."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_octo.conversion.proof.verify import verify
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from megatron_octo.conversion.writers.to_checkpoint import write_checkpoint
from megatron_octo.conversion.writers.to_hf import to_hf
from megatron_octo.convert import main
from tests import disks
from tests.conversion.commands import assert_refused
from tests.conversion.models import small_model, write_hf, write_legacy
from tests.data.conftest import train_tokenizer
from tests.distributed import run_forked

MODEL = small_model()
SPECIAL = ["<fim_prefix>", "<fim_middle>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    write_hf(folder / "hf", MODEL)
    write_checkpoint(open_weights(folder / "hf"), folder / "ours")
    to_bigcode(open_weights(folder / "hf"), folder / "legacy")
    return folder


def test_the_output_is_where_it_is_said_to_be(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    to_hf(folder / "hf", ".")
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    to_hf(folder / "hf", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    for name in ("here", "there"):
        assert (tmp_path / name / "model.safetensors").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "link", "there"]


def test_an_output_that_cannot_be(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(capfd, "exists already|mount point", "to-hf", folder / "hf", "/")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert_refused(capfd, "links that lead to each other", "to-hf", folder / "hf", tmp_path / "a")
    (tmp_path / "file").write_text("x")
    assert_refused(capfd, "exists already", "to-hf", folder / "hf", tmp_path / "file")
    assert_refused(capfd, "file", "to-hf", folder / "hf", tmp_path / "file/out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "file"]


@pytest.mark.parametrize("options", [["-t", "tmpfs", "tmpfs"], ["--bind"]], ids=["disk", "bind"])
def test_a_mount_point_is_refused_before_the_work(
    options: list[str], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if options == ["--bind"]:
        (tmp_path / "other").mkdir()
        options = [*options, str(tmp_path / "other")]
    with disks.mounted(tmp_path / "a disk", *options) as place:
        for command in ("to-hf", "reshard", "to-bigcode"):
            assert_refused(capfd, "mount point", command, folder / "hf", place)
        assert not list(tmp_path.glob(".*")) and not list(place.iterdir())
        to_hf(folder / "hf", place / "out")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("size above 0", ["--shard-size", "nan"]),
        ("size above 0", ["--shard-size", "inf"]),
        ("size above 0", ["--shard-size=-1"]),
        ("size above 0", ["--shard-size", "0"]),
        ("not a number", ["--shard-size", "large"]),
        ("whole number above 0", ["--vocab-size", "0"]),
        ("--vocab-size is for a BigCode checkpoint", ["--vocab-size", "1001"]),
        ("--base-weights is for a LoRA run", ["--base-weights", "hf"]),
        ("--verify, which is missing", ["--tolerance", "1"]),
        ("option of --push, which is missing", ["--public"]),
        ("it takes no --dtype", ["--adapter", "--dtype", "bf16"]),
        ("it takes no --base-weights", ["--adapter", "--base-weights", "x"]),
        ("no --tokenizer and no --vocab-size", ["--adapter", "--vocab-size", "7", "--tokenizer", "x"]),
        ("no --shard-size and no --verify", ["--adapter", "--verify", "--shard-size", "1"]),
    ],
)
def test_an_option_that_says_nothing(
    words: str, options: list[str], folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capfd, words, "to-hf", folder / "hf", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_options_of_other_commands(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hf, ours, legacy = folder / "hf", folder / "ours", folder / "legacy"
    for command in ("reshard", "to-bigcode"):
        for option, value in (("--vocab-size", "9"), ("--base-weights", "x")):
            assert_refused(capfd, option, command, ours, tmp_path / "out", option, value)
    assert_refused(capfd, "--vocab-size", "show", ours, "--vocab-size", "9")
    assert_refused(capfd, "--vocab-size", "verify", ours, hf, "--vocab-size", "9")
    assert_refused(capfd, "--base-weights", "verify", ours, legacy, "--base-weights", "x")
    assert_refused(capfd, "not a difference", "verify", ours, hf, "--tolerance", "nan")
    assert not list(tmp_path.iterdir())


def test_a_text_that_is_none(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    for data, words in ((b"caf\xe9", "no UTF-8 at byte 3"), (b"", "empty"), (b"words", "no tokenizer.json")):
        text.write_bytes(data)
        assert_refused(capfd, words, "verify", folder / "hf", folder / "ours", "--text", text)


def test_a_tokenizer_of_another_model(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = train_tokenizer(tmp_path / "tokenizer.json", SPECIAL)
    write_hf(tmp_path / "hf", small_model(vocab_size=200))
    words = r"this tokenizer has 2\d\d tokens, the model 200"
    assert_refused(capfd, words, "to-hf", tmp_path / "hf", tmp_path / "out", "--tokenizer", tokenizer)
    assert not (tmp_path / "out").exists()
    # One that lies beside the weights was chosen by who made them: what it says is looked at.
    shutil.copyfile(tokenizer, tmp_path / "hf/tokenizer.json")
    text = tmp_path / "text"
    text.write_text("{}~ß" * 99)
    write_checkpoint(open_weights(tmp_path / "hf"), tmp_path / "ours")
    words = r"makes token 2\d\d of the text, the model has 200"
    assert_refused(capfd, words, "verify", tmp_path / "hf", tmp_path / "ours", "--text", text)


@pytest.mark.slow
def test_who_reads_may_stop_reading(folder: Path) -> None:
    command = f"{sys.executable} -m megatron_octo.convert show --tensors {folder / 'hf'} | head -n 1"
    found = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "") and found.stdout.startswith("directory")
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run(
        [sys.executable, "-m", "megatron_octo.convert", "show", str(folder / "hf")],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.slow
def test_padding_that_differs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """1100 tokens are 1152 rows on one rank and 2048 on eight: which side comes first decides nothing."""
    tensors = write_hf(tmp_path / "hf", small_model(vocab_size=1100))
    for ranks in (1, 8):
        write_legacy(tmp_path / f"theirs{ranks}", tensors, MODEL.num_layers, ranks, 1)
    to_bigcode(open_weights(tmp_path / "hf"), tmp_path / "ours8", tensor=8)
    sizes = {path.name: open_weights(path).manifest.model.vocab_size for path in tmp_path.iterdir()}
    assert sizes == {"hf": 1100, "theirs1": 1152, "theirs8": 2048, "ours8": 1100}

    def compare() -> list[bool | None]:
        pairs = itertools.permutations(sizes, 2)
        return [verify(tmp_path / one, tmp_path / other).weights_equal for one, other in pairs]

    assert run_forked(compare) == [True] * 12
    options = ["verify", str(tmp_path / "theirs8"), str(tmp_path / "theirs1"), "--vocab-size", "1100"]
    assert run_forked(main, options) == 0
    assert "weights bit-equal" in capfd.readouterr().out
    assert_refused(capfd, "5000 does not fit", *options[:-1], "5000")
