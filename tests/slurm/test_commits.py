"""A recipe of commit data as jobs: arrays make the parts, and the bytes are those of one process."""

import re
from pathlib import Path

import pytest

from megatron_octo.commits.__main__ import main
from tests.commits.chain.test_run import contents, recipe
from tests.slurm.conftest import Cluster


def test_arrays_make_the_bytes_of_one_process(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, rows=400)
    main(["run", str(path)])
    wanted = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "alone")
    capsys.readouterr()
    assert main(["run", str(path), "--slurm", "--array", "3", "--cpus", "1", "--sbatch=--time=10"]) == 0
    jobs = dict(re.findall(r"job (\d+): (\S+)", capsys.readouterr().out))
    assert list(jobs.values()) == [
        "01-languages-shares", "01-languages", "02-filter-shares", "02-filter", "03-dedup", "04-scrub-shares",
        "04-scrub",
    ]  # fmt: skip
    cluster.wait(list(jobs)[-1], "COMPLETED", "FAILED", "CANCELLED", seconds=240)
    logs = "".join(each.read_text() for each in (tmp_path / "out/slurm").glob("*.log"))
    assert contents(tmp_path / "out") == wanted, logs
