"""``commits run``: stages in order, once each, whatever kills; changes are seen; shares make the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from megatron_octo.commits.rows import read_rows
from megatron_octo.common.errors import OctoError
from tests.commits.rows.made import write_rows
from tests.places import PROJECT

STAGES = """
stages:
  - languages
  - filter: {rules: fixed, no_tokens: true}
  - dedup: {threshold: 0.8}
  - scrub: {without: [ipv6, email]}
"""


def recipe(folder: Path, stages: str = STAGES, rows: int = 60) -> Path:
    if not (folder / "in.parquet").exists():
        write_rows(folder / "in.parquet", rows, 300)
    path = folder / "commits.yaml"
    path.write_text(f"output: {folder}/out\ninputs: {folder}/in.parquet\njobs: 1\n{stages}")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_stages_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path)
    assert main(["run", str(path)]) == 0
    names = ["01-languages", "02-filter", "03-dedup", "04-scrub"]
    assert [each.name for each in sorted((tmp_path / "out").iterdir()) if each.is_dir()] == names
    last = list(read_rows(tmp_path / "out/04-scrub"))
    assert all(row.kept for row in last)  # the last stage leaves dropped rows out
    assert len(list(read_rows(tmp_path / "out/03-dedup"))) == 60
    capsys.readouterr()
    before = {each: each.stat().st_mtime_ns for each in (tmp_path / "out").rglob("*")}
    assert main(["run", str(path)]) == 0
    assert capsys.readouterr().err.count("complete already") == 4
    assert before == {each: each.stat().st_mtime_ns for each in (tmp_path / "out").rglob("*")}


def test_the_commands_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe(tmp_path)), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("python -m megatron_octo.commits filter --output=") and "--no-tokens" in lines[1]
    assert "--without ipv6 email" in lines[3] and "--drop" in lines[3] and "--drop" not in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_changed_stage_is_seen_and_made_again_on_demand(tmp_path: Path) -> None:
    main(["run", str(recipe(tmp_path))])
    path = recipe(tmp_path, STAGES.replace("0.8", "0.9"))
    with pytest.raises(OctoError, match="made of other inputs or options") as error:
        main(["run", str(path)])
    assert "--again-from 03-dedup" in str(error.value.hint)
    assert main(["run", str(path), "--again-from", "dedup"]) == 0
    assert main(["run", str(path)]) == 0


def test_shares_make_the_same_bytes(tmp_path: Path) -> None:
    path = recipe(tmp_path, rows=400)
    main(["run", str(path)])
    wanted = contents(tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "in.parquet").rename(other / "in.parquet")
    shared = recipe(other)
    for stage in ("1", "2", "3", "4"):
        if stage != "3":
            for share in ("1/3", "0/3", "2/3"):
                assert main(["run", str(shared), "--only", stage, "--share", share]) == 0
        assert main(["run", str(shared), "--only", stage]) == 0
    assert contents(other / "out") == wanted


@pytest.mark.slow
def test_kills_change_nothing(tmp_path: Path) -> None:
    path = recipe(tmp_path, rows=2000)
    main(["run", str(path)])
    wanted = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    command = [sys.executable, "-m", "megatron_octo.commits", "run", str(path)]
    wait, kills = random.Random(0), 0
    for _ in range(5):
        process = subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(wait.uniform(0.3, 0.9))
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    assert kills and contents(tmp_path / "out") == wanted


@pytest.mark.parametrize(
    "words", [["--share", "0/2"], ["--only", "nothing"], ["--only", "1", "--share", "2/2"], ["--again-from", "x"]]
)
def test_wrong_options(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(OctoError):
        main(["run", str(recipe(tmp_path)), *words])
