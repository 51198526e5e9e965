"""The sbatch scripts as texts; tests/slurm runs them."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_octo.recipe.loading import load_recipe
from tests.places import PROJECT

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
    assert not [line for line in lines if re.search(r"""(^|[\s=]["']?)/[a-z]""", line)], "an absolute path"


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


@pytest.mark.parametrize(("name", "given"), [("preprocess.sh", ["--input-key", "x"]), ("evaluate.sh", [])])
def test_the_merge_of_an_array_gets_what_the_array_has(tmp_path: Path, name: str, given: list[str]) -> None:
    """From a folder with a space in its name, by the first task, with stand-ins for SLURM's commands."""
    script = tmp_path / "my scripts" / name
    script.parent.mkdir()
    shutil.copy(PROJECT / "slurm" / name, script)
    texts = {
        "sbatch": f'printf "%s\\n" "$STEP" "$@" >{tmp_path}/asked',
        "squeue": "echo 2:00:00",
        "srun": ":",
        "scontrol": f"echo Command={script} --input-key x",
    }
    for command, text in texts.items():
        (tmp_path / command).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / command).chmod(0o755)
    job = {"ID": "8", "NAME": "p", "PARTITION": "cpu", "ACCOUNT": "code", "QOS": "long"}
    task = {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "0", "ARRAY_TASK_MIN": "0", "ARRAY_TASK_COUNT": "2"}
    variables = {f"SLURM_JOB_{name}": value for name, value in job.items()}
    variables |= {f"SLURM_{name}": value for name, value in {**task, "SUBMIT_DIR": str(tmp_path)}.items()}
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run([script, "--input-key", "x"], env={**variables, "PATH": path}, check=True)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0] == "merge" and asked[-1 - len(given) :] == [str(script), *given]
    assert {"--partition=cpu", "--account=code", "--qos=long", "--time=2:00:00"} <= set(asked)
    assert {"--dependency=afterok:7", "--kill-on-invalid-dep=yes", "--job-name=p-merge"} <= set(asked)


@pytest.mark.parametrize("task", [None, "5", "merge"])
def test_commands_of_an_evaluation(tmp_path: Path, task: str | None) -> None:
    """Alone, as the second task of an array that begins at 4, and as the merge of its two parts."""
    (tmp_path / "srun").write_text(f"#!/bin/sh\necho $* >>{tmp_path}/ran\n")
    (tmp_path / "srun").chmod(0o755)
    variables = {"SLURM_JOB_ID": "8", "SLURM_SUBMIT_DIR": str(tmp_path), "PYTHON": "py", "MODEL": "runs/a/hf"}
    if task == "merge":
        variables |= {"STEP": "merge", "PARTS": "2"}
    elif task:
        array = {"JOB_ID": "7", "TASK_ID": task, "TASK_MIN": "4", "TASK_COUNT": "2"}
        variables |= {f"SLURM_ARRAY_{name}": value for name, value in array.items()}
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = PROJECT / "slurm" / "evaluate.sh"
    subprocess.run([script, "--limit", "2"], env={**variables, "PATH": path}, check=True)
    start = "--ntasks=1 py -m megatron_octo.evaluate"
    ran = (tmp_path / "ran").read_text().splitlines()
    if task == "merge":
        parts = "runs/a/evaluation/parts/0-of-2 runs/a/evaluation/parts/1-of-2"
        wanted = [f"{start} merge {parts} --output runs/a/evaluation", f"{start} report runs/a/evaluation"]
        assert ran == wanted
        return
    where = "runs/a/evaluation" + ("/parts/1-of-2 --part 1/2" if task else "")
    options = "--tasks all --prompt octocoder --data hf:bigcode/humanevalpack"
    assert ran == [f"{start} run --model runs/a/hf {options} --output {where} --limit 2"]
    from megatron_octo.evaluate import build_parser

    assert build_parser().parse_args(ran[0].split()[4:]).part == ((1, 2) if task else None)
