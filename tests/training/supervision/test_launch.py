"""Variables of launchers: one message that names the wrong one, exit code 2, at once."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.training.supervision import launch
from tests.training.runs import TestRun, small_corpus

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM") and key not in NAMES}
    monkeypatch.setattr(os, "environ", clean)
    return clean


@pytest.mark.parametrize("name", [*TORCHRUN, *SRUN])
@pytest.mark.parametrize("value", [None, "", "-1", "1e3", "two", "99999999999999999999999", "\u0661", "no such host"])
def test_wrong_variables_are_named(environment: dict[str, str], name: str, value: str | None) -> None:
    environment.update(TORCHRUN if name in TORCHRUN else SRUN)
    environment.pop(name)
    if value is not None:
        environment[name] = value
    if (name, value) in {("SLURM_JOB_ID", None), ("SLURM_LOCALID", None)}:
        assert launch.adopt_environment()
    elif name == "MASTER_ADDR" and value not in (None, "", "no such host", "\u0661"):
        pass  # whether it is the name of a host is the network's to say
    else:
        with pytest.raises(OctoError) as error:
            launch.adopt_environment()
        assert error.value.code == 2 and error.value.lone
        expected = "SLURM_JOB_NODELIST" if (name, value) == ("SLURM_STEP_NODELIST", None) else name
        assert expected in error.value.what and expected in str(error.value.where)


def test_right_variables(environment: dict[str, str]) -> None:
    environment.update(TORCHRUN)
    assert launch.adopt_environment()
    assert {name: environment[name] for name in TORCHRUN} == TORCHRUN
    environment.clear()
    assert not launch.adopt_environment()
    environment.update(RANK="0", WORLD_SIZE="1")
    assert launch.adopt_environment()
    assert environment["LOCAL_RANK"] == "0" and 0 < int(environment["MASTER_PORT"]) < 65536
    environment.clear()
    environment.update(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_JOB_ID="7")
    assert not launch.adopt_environment()  # a batch script is no rank
    environment.clear()
    environment.update(SRUN)
    assert launch.adopt_environment()
    assert [environment[name] for name in NAMES] == ["1", "2", "1", "localhost", "10007"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("corpus"))


def started(run: TestRun, *, files: int | None = None, **variables: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of the command under such variables, with at most so many open files."""

    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM") and key not in NAMES}
    before = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-m", "megatron_octo.train", str(run.recipe)],
        capture_output=True,
        text=True,
        env={**clean, "CUDA_VISIBLE_DEVICES": "", **variables},
        preexec_fn=limit,
    )
    return answer.returncode, answer.stdout + answer.stderr, time.monotonic() - before


def test_a_rank_beyond_the_world_leaves_at_once(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus)
    code, text, _ = started(run, **{**TORCHRUN, "RANK": "2"})
    assert code == 2 and text.count("error:") == 1, text
    assert text.startswith("[rank 2] error: RANK is 2, but WORLD_SIZE is 2") and "Traceback" not in text
    code, text, _ = started(run, RANK="\x1b[31m", WORLD_SIZE="2")
    assert code == 2 and "\x1b" not in text and text.startswith("error: RANK is")
    assert not run.path.exists()


@pytest.mark.parametrize("files", [20, 64, 120])
def test_too_few_open_files(tmp_path: Path, corpus: Path, files: int) -> None:
    run = TestRun(tmp_path, corpus)
    code, text, _ = started(run, files=files)
    assert code == 2 and "Traceback" not in text, text
    assert f"at most {files} files may be open" in text and "ulimit -n 1024" in text
    assert not run.path.exists()


def test_a_low_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: set_to.append(limits))
    launch.allow_open_files(8)
    assert set_to == [(4096, 4096)]


@pytest.mark.slow
def test_a_rank_that_was_killed_is_explained(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, parallel={"tensor": 2})
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OCTO_FAULT": "rank=1,step=2,kind=kill"}
    command = [sys.executable, "-m", "megatron_octo.train", str(run.recipe), "--nproc", "2"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert answer.returncode == 76
    assert "rank 1 was killed by SIGKILL, most likely by the kernel for lack of memory" in answer.stderr
    assert "a rank that ends without a message was killed" in answer.stderr


@pytest.mark.slow
def test_no_memory_on_the_cpu_is_explained(tmp_path: Path, corpus: Path) -> None:
    run = TestRun(tmp_path, corpus, model={"hidden_size": 4096, "ffn_hidden_size": 16384, "num_layers": 8})
    command = f"ulimit -v {6 << 20}; exec {sys.executable} -m megatron_octo.train {run.recipe} system.preflight=none"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert answer.returncode == 2, answer.stderr
    assert "error: out of memory on the CPU: " in answer.stderr and "Traceback" not in answer.stderr
