"""The device that a process takes where there is no GPU."""

from collections.abc import Iterator

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.training.engine.device import own_device


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_the_cpu_and_no_more_threads_than_given(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert own_device(wanted) == torch.device("cpu")
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    own_device(wanted)
    assert torch.get_num_threads() == 1
    for value, threads in (
        ("2,1", 2),
        ("", 1),
        ("0", 1),
        ("many", 1),
    ):  # OpenMP takes a list, one number per level
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        own_device(wanted)
        assert torch.get_num_threads() == threads


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OctoError, match="no usable GPU"):
        own_device("cuda")
