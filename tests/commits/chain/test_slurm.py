"""Scripts for SLURM: bash reads them, arrays stand where parts are independent. tests/slurm runs them."""

import subprocess
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.chain.recipe import read_recipe
from megatron_octo.commits.chain.slurm import script
from megatron_octo.commits.commands import parser_of
from megatron_octo.common.errors import OctoError
from tests.commits.chain.test_run import recipe


def test_scripts(tmp_path: Path) -> None:
    folder = tmp_path / "a folder; with 'quotes'"
    folder.mkdir()
    found = read_recipe(recipe(folder), parser_of)
    alone = script(found, found.steps[0], 2, 0, ["--partition=cpu"])
    shares = script(found, found.steps[0], 2, 8, [])
    for text in (alone, shares):
        assert subprocess.run(["bash", "-n"], input=text.encode(), check=False).returncode == 0
    assert "#SBATCH --partition=cpu" in alone and "--array" not in alone and "--share" not in alone
    assert "#SBATCH --array=0-7" in shares and '--share "$SLURM_ARRAY_TASK_ID/8"' in shares


@pytest.mark.parametrize("words", [["--array", "0"], ["--cpus", "0"], ["--sbatch=-p cpu"], ["--sbatch=--wrap=a b"]])
def test_wrong_options(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(OctoError):
        main(["run", str(recipe(tmp_path)), "--slurm", *words])
    assert not (tmp_path / "out").exists()


def test_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OctoError, match="no sbatch on this machine"):
        main(["run", str(recipe(tmp_path)), "--slurm"])
