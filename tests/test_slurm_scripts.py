"""The sbatch scripts as texts; tests/slurm runs them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_octo.recipe import load_recipe

PROJECT = Path(__file__).parents[1]
SCRIPTS = sorted((PROJECT / "slurm").glob("*.sh"))
TRAINING = {
    "pretrain_santacoderpack.sh": "santacoderpack",
    "finetune_starcoderbase.sh": "starcoderbase_finetune",
}


def options(name: str) -> dict[str, str]:
    text = (PROJECT / "slurm" / name).read_text()
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^#SBATCH", text, re.MULTILINE)), "one long option a line"
    return dict(found)


def each(scripts: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("script", scripts, ids=lambda script: script.name)


@each([*SCRIPTS, *sorted((PROJECT / "preprocess").glob("*.sh")), *sorted((PROJECT / "convert").glob("*.sh"))])
def test_is_sound_bash(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@each(SCRIPTS)
def test_header_comes_first_and_names_no_cluster(script: Path) -> None:
    text = script.read_text()
    code = re.search(r"^[^#\n]", text, re.MULTILINE)
    assert code is not None
    assert "#SBATCH" not in text[code.start() :], "SLURM ignores options after the first command"
    settings = options(script.name)
    assert settings.keys().isdisjoint({"partition", "account", "constraint", "qos", "gres"})
    assert "open-mode" in settings and settings["open-mode"] == "append" and "requeue" in settings
    assert "CUDA_LAUNCH_BLOCKING" not in text
    lines = [line for line in text.splitlines()[1:] if not line.startswith("#")]
    assert not [line for line in lines if re.search(r"""(^|[\s="'])/[a-z]""", line)], "an absolute path"


@pytest.mark.parametrize("name,recipe", TRAINING.items())
def test_training_header_fits_the_recipe(name: str, recipe: str) -> None:
    settings = options(name)
    assert settings["ntasks-per-node"] == settings["gpus-per-node"] == "8"
    assert settings["signal"] == "USR1@120"
    loaded = load_recipe(PROJECT / "recipes" / f"{recipe}.yaml")
    replica = loaded.parallel.tensor * loaded.parallel.pipeline
    replicas, rest = divmod(int(settings["nodes"]) * 8, replica)
    assert rest == 0
    assert loaded.batch.global_size % (replicas * loaded.batch.micro_size) == 0


def test_training_scripts_differ_in_settings_alone() -> None:
    bodies = []
    for name, recipe in TRAINING.items():
        body = (PROJECT / "slurm" / name).read_text().partition("set -euo pipefail")[2]
        assert body.count(f"recipes/{recipe}.yaml") == 1
        bodies.append(body.replace(f"recipes/{recipe}.yaml", ""))
    assert bodies[0] == bodies[1]
