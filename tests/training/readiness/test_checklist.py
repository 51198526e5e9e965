"""One test per finding: what is wrong is named with its place, before torch, and nothing is changed."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.run_lock import RunLock
from megatron_octo.training.readiness.checklist import check_recipe

MakeRecipe = Callable[..., Recipe]


def test_a_good_recipe(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    found = check_recipe(make_recipe(), ranks=4)
    assert (found.problems, found.warnings) == ({}, [])
    names = [line.split(": ")[0] for line in found.good]
    assert names == ["layout", "data.train", "weights", "run_dir", "lock", "disk"]
    assert "layout: 4 x 1 ranks, 1 micro-batch per step" in found.good
    assert "data.train: 108 documents of 1 data set" in found.good
    found.stop()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ranks", "sections", "message"),
    [
        (3, {"parallel": {"tensor": 2}}, "3 processes cannot hold tensor 2 x pipeline 1 = 2 ranks per model"),
        (3, {}, "batch.global_size 8 is no multiple of micro_size 2 x 3"),
        (None, {"parallel": {"tensor": 2}}, ""),  # one replica, unless told otherwise
    ],
)
def test_layout(make_recipe: MakeRecipe, ranks: int | None, sections: dict, message: str) -> None:
    found = check_recipe(make_recipe(**sections), ranks)
    assert (message in str(found.problems["layout"])) if message else not found.problems


def test_run_directory_is_a_file(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    problem = str(check_recipe(make_recipe()).problems["run_dir"])
    assert "exists already" in problem and str(tmp_path / "run") in problem
    found = check_recipe(make_recipe("run/deeper"))
    assert "a part of this path" in str(found.problems["run_dir"])


def test_run_directory_cannot_be_written(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    problem = check_recipe(make_recipe()).problems["run_dir"]
    assert "permission denied" in str(problem) and f"where: {tmp_path}" in str(problem)


def test_plan_cache_cannot_be_written(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("x")
    found = check_recipe(make_recipe(data={"plan_cache": str(tmp_path / "plans")}))
    assert list(found.problems) == ["data.plan_cache"]


def test_another_process_trains_here(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from megatron_octo.runfiles.run_lock import RunLock\n"
    code += "RunLock.acquire(Path(sys.argv[1]), 1); print('locked', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout and other.stdout.readline() == "locked\n"
        problem = str(check_recipe(make_recipe()).problems["lock"])
        assert f"process {other.pid} on {socket.gethostname()}" in problem and "another run_dir" in problem
        assert "lock" not in check_recipe(make_recipe(), lock=False).problems
    finally:
        other.kill()
        other.wait()
    assert check_recipe(make_recipe()).problems == {}  # its owner is gone


def test_a_process_of_another_host_may_train_here(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock.acquire(tmp_path / "run", 1)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    found = check_recipe(make_recipe())
    assert "lock" not in found.problems and "may be training in this run directory" in found.warnings[0]
    lock.release()


def test_disk(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, usage = make_recipe(), shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    assert "no space left for the next checkpoint" in str(check_recipe(recipe).problems["disk"])
    assert check_recipe(make_recipe(system={"preflight": "none"})).problems == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    found = check_recipe(recipe)
    assert not found.problems and "checkpoint.keep 3 needs" in found.warnings[0]


def test_wandb_is_missing(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe(log={"wandb_project": "octo"})
    assert check_recipe(recipe).problems == {}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "wandb is not installed" in str(check_recipe(recipe).problems["log.wandb_project"])


def test_several_problems_are_one_error(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(data={"train": f"train: 1 0:1 {tmp_path / 'nothing'}", "tokenizer": str(tmp_path / "t.json")})
    found = check_recipe(recipe, ranks=3)
    with pytest.raises(OctoError) as error:
        found.stop()
    text = str(error.value)
    assert text.startswith("3 things would stop this run\n- layout: batch.global_size 8")
    assert "- data.train: no such data set file" in text and "- data.tokenizer: no such file" in text
    assert sum(line.startswith("WRONG") for line in found.lines()) == 3


def test_what_an_earlier_stage_makes_is_not_missed(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(data={"train": f"train: 1 0:1 {tmp_path / 'nothing'}"})
    assert check_recipe(recipe, data=False).problems == {}
