"""``octo check``: a list of findings and an exit code; ``train`` looks, too, before any process starts."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_octo import check
from megatron_octo.common.errors import OctoError
from tests.conftest import recipe_tree


@pytest.fixture
def recipe(tmp_path: Path, corpus: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(corpus, tmp_path / "run")))
    return path


def test_good_and_bad(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(recipe), "--ranks", "2"]) == 0
    assert all(line.startswith("ok ") for line in capsys.readouterr().out.splitlines())
    assert check.main([str(recipe), "model.vocab_size=7", "data.valid=v: 1 0:1 nowhere"]) == 2
    said = capsys.readouterr().out
    assert "WRONG    data.valid: no such data set file\n           where: nowhere.idx" in said
    with pytest.raises(OctoError, match="cannot train with 0 processes"):
        check.main([str(recipe), "--ranks", "0"])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from megatron_octo import cli\n"
    code += f"try: cli.main({list(words)!r})\n"
    code += "finally: print('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_quick_and_without_torch(recipe: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("check", str(recipe))
    assert done.returncode == 0 and done.stdout.endswith("False\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


@pytest.mark.parametrize("processes", ["1", "2"])
def test_train_looks_before_torch_and_processes(recipe: Path, tmp_path: Path, processes: str) -> None:
    done = run("train", str(recipe), "--nproc", processes, "data.train=train: 1 0:1 nowhere")
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("error: no such data set file\n  where: nowhere.idx")
    assert not (tmp_path / "run").exists()
