"""Token files are compared with their digests once, by all ranks together, and again when they may have changed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.training.engine import verification
from tests.conftest import write_corpus
from tests.distributed import run_ranks
from tests.test_train import manifest
from tests.training.runs import TestRun, flip


@pytest.mark.slow
def test_files_are_read_once_and_again_when_they_changed(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("t")
    prefix = write_corpus(tmp_path / "data", documents=25)
    manifest(prefix, tmp_path / "t.json")
    run = TestRun(tmp_path, prefix, checkpoint={"interval": 1})
    assert "token files: 1 compared with their digests" in run.train(1, "train.steps=1")
    (entry,) = json.loads((run.path / "verified.json").read_text()).values()
    assert entry["bytes"] == Path(f"{prefix}.bin").stat().st_size and entry["verified"].endswith("Z")
    run.log.unlink()
    assert "token files: 1 the same files as when they were compared" in run.train(1, "train.steps=2")
    before = Path(f"{prefix}.bin").stat()
    flip(Path(f"{prefix}.bin"), 100)
    os.utime(f"{prefix}.bin", ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync --times leaves it
    assert "digest differs" in run.fails(2, "train.steps=3")
    flip(Path(f"{prefix}.bin"), 100)
    shutil.copy(f"{prefix}.bin", tmp_path / "copy")
    os.replace(tmp_path / "copy", f"{prefix}.bin")  # another file with the same bytes
    (run.path / "verified.json").write_text("[" * 100_000)
    run.log.unlink()
    assert "token files: 1 compared" in run.train(1, "train.steps=3")


def checked_here(prefixes: list[str], run: Path, broken: str | None) -> tuple[list[str], str]:
    """The prefixes whose tokens this rank compares, and the error that it raises."""
    from megatron_octo.config.layout import Layout
    from megatron_octo.model.platform.grid import Grid

    mine: list[str] = []
    check = verification.check_tokens

    def note(prefix: str) -> None:
        mine.append(Path(prefix).name)
        check(prefix)

    verification.check_tokens = note
    grid = Grid.build(Layout(), torch.device("cpu"), 0)
    try:
        verification.verify_tokens(set(prefixes), run, grid)
    except OctoError as error:
        return sorted(mine), str(error)
    return sorted(mine), ""


@pytest.mark.parametrize("broken", [None, "d1"])
def test_ranks_share_the_files(tmp_path: Path, broken: str | None) -> None:
    (tmp_path / "t.json").write_text("t")
    prefixes = [str(write_corpus(tmp_path / f"d{number}", documents=20 + number)) for number in range(5)]
    for prefix in prefixes[:4]:  # one has no manifest, and nothing to compare with
        manifest(Path(prefix), tmp_path / "t.json")
    if broken:
        flip(tmp_path / f"{broken}.bin", 50)
    answers = run_ranks(2, checked_here, prefixes, tmp_path, broken)
    assert [mine for mine, _ in answers] == [["d1", "d3"], ["d0", "d2"]]  # largest first, in turn
    for _, said in answers:
        assert ("d1.bin" in said and "digest differs" in said) if broken else said == ""
