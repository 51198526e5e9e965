"""Data, planning and conversion run where Linux's own calls are missing, as on macOS."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conversion.models import small_model, write_hf
from tests.data.conftest import CONTROL, train_tokenizer
from tests.places import PROJECT, RECIPES

# Names that macOS lacks; deleted before the library is imported.
MISSING = {
    "errno": ["EREMOTEIO"],
    "os": [
        "sched_getaffinity",
        "sched_setaffinity",
        "posix_fadvise",
        "posix_fallocate",
        "O_DIRECT",
        "memfd_create",
    ],
    "mmap": ["MADV_HUGEPAGE", "MAP_POPULATE"],
}


def call(*argv: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    lines = [f"import {module}; del {module}.{name}" for module, names in MISSING.items() for name in names]
    script = "\n".join([*lines, f"from megatron_octo import cli; cli.main({list(argv)!r})"])
    return subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, cwd=cwd)


@pytest.mark.parametrize("command", ["preprocess", "inspect", "plan", "convert", "train", "submit", "schema"])
def test_help(command: str) -> None:
    done = call(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_preprocess_and_inspect(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"inputs": "a question", "outputs": "an answer"}\n' * 5)
    tokenizer = train_tokenizer(tmp_path / "tokenizer.json", CONTROL)
    made = call(
        "preprocess",
        "--input",
        str(rows),
        "--tokenizer",
        str(tokenizer),
        "--output-prefix",
        f"{tmp_path}/out",
    )
    assert made.returncode == 0, made.stderr
    looked = call("inspect", f"{tmp_path}/out", "--full")
    assert looked.returncode == 0, looked.stdout + looked.stderr


def test_plan() -> None:
    done = call("plan", str(RECIPES / "santacoderpack.yaml"), "--gpu", "h100", "--nodes", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_convert(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", small_model())
    for command, source, target in (("from-hf", "hf", "ours"), ("to-hf", "ours", "back")):
        done = call("convert", command, str(tmp_path / source), str(tmp_path / target))
        assert done.returncode == 0, done.stderr
    done = call("convert", "verify", str(tmp_path / "ours"), str(tmp_path / "back"))
    assert done.returncode == 0, done.stdout + done.stderr
