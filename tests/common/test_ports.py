"""Ports of jobs: one rule for srun and for the scripts, below the range of clients."""

import socket
from pathlib import Path

import pytest

from megatron_octo.common.ports import free_port_of_job, port_of_job
from megatron_octo.training.supervision import launch


@pytest.mark.parametrize("job", [0, 1, 12768, 19_999, 20_000, 987_654_321])
def test_ports_of_jobs_are_not_given_to_clients(job: int) -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 < port_of_job(job) < 32_000 <= max(lowest, 32_000)


def test_srun_and_the_scripts_share_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "17011"}
    for name, value in {**step, "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert launch.adopt_environment()
    assert launch.os.environ["MASTER_PORT"] == str(port_of_job(17011)) == "27011"


def test_a_port_that_is_taken_is_passed_over() -> None:
    job = 4242
    first = free_port_of_job(job)
    with socket.socket() as other:
        other.bind(("", first))
        assert first < free_port_of_job(job) < 32_000
