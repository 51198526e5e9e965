"""The seven commands of docs/commits.md, run as they stand there, on a made repository."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.train_tokenizer import main as train_tokenizer
from tests.commits.history.made import Repository
from tests.places import PROJECT
from tests.test_docs import commands

SUBJECTS = (
    "Add a check of {} to it",
    "Remove the old use of {} here",
    "Rename the value that {} gives",
    "Use less for {} now",
)


def make_repository(path: Path) -> None:
    """Commits with subjects that CommitPackFT's rules keep."""
    repository = Repository(path)
    names = [f"part{number}" for number in range(12)]
    texts = {
        f"{name}.py": f"def {name}_value(count):\n    return count + 1\n" + f"# {name} more\n" * 6 for name in names
    }
    repository.write({name: text.encode() for name, text in texts.items()})
    repository.git("add", "-A")
    repository.git("commit", "-q", "-m", "Begin")
    for number in range(48):
        name = f"{names[number % 12]}.py"
        texts[name] += f"\n\ndef added_{number}(count):\n    return count * {number} + len('{names[number % 7]}')\n"
        repository.write({name: texts[name].encode()})
        author = {"GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_DATE": f"2021-01-02T03:{number:02d}:05+00:00"}
        repository.git("commit", "-q", "-a", "-m", SUBJECTS[number % 4].format(f"number {number}"), env=author)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_seven_commands(tmp_path: Path) -> None:
    lines = commands(PROJECT / "docs/commits.md")[:7]
    assert [line.split()[0] for line in lines] == ["git", *["python"] * 6]
    make_repository(tmp_path / "made")
    for name in ("recipes", "commits"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"inputs": "def value(count):\\n    return count + 1\\n", "outputs": "x"}\n' * 50)
    train_tokenizer([str(pairs), str(tmp_path / "data/tokenizer.json"), "--vocabulary", "400"])
    clone = lines[0].split()[2]
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for line in lines:
        line = line.replace(clone, str(tmp_path / "made"))
        if "smoke_commits.yaml" in line:
            line += " train.steps=4 eval.interval=4 checkpoint.interval=4 data.seq_length=256"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env={"PATH": path, "PYTHONPATH": str(PROJECT), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (tmp_path / "runs/smoke_commits/hf/config.json").is_file()
