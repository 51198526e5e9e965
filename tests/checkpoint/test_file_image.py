"""The copy in host memory gives the very file that the writer gives, whatever changes in between."""

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_octo.checkpoint import file_image as image
from megatron_octo.checkpoint.digest import digests
from megatron_octo.checkpoint.file_image import CancelledSave, FileImage
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from tests.checkpoint.test_tensor_writer import sample


@pytest.mark.parametrize("chunk", [1, 13, 1 << 28])
def test_same_bytes_as_the_writer(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "CHUNK", chunk)
    tensors = sample()
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with SafetensorsWriter(tmp_path / "expected", specs) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        expected = writer.close()

    copy = FileImage(specs)
    for path in (tmp_path / "first", tmp_path / "again"):  # it is used for one save after the other
        fresh = {name: tensor.clone() for name, tensor in tensors.items()}
        copy.fill(fresh.values())
        for tensor in fresh.values():
            tensor.zero_()  # training goes on
        assert copy.write(path, threading.Event()) == expected
        assert path.read_bytes() == (tmp_path / "expected").read_bytes()
        assert digests([path])[path] == expected["digest"]
        for tensor in tensors.values():
            tensor.copy_(tensor)  # the same values again


def test_another_dtype_is_rounded(tmp_path: Path) -> None:
    tensor = torch.randn(100, generator=torch.Generator().manual_seed(0))
    copy = FileImage({"x": (torch.bfloat16, (100,))})
    copy.fill([tensor])
    copy.write(tmp_path / "x", threading.Event())
    assert torch.equal(load_file(tmp_path / "x")["x"], tensor.bfloat16())


def test_a_cancelled_write_ends(tmp_path: Path) -> None:
    copy, cancelled = FileImage({"x": (torch.float32, (10,))}), threading.Event()
    copy.fill([torch.zeros(10)])
    cancelled.set()
    with pytest.raises(CancelledSave):
        copy.write(tmp_path / "x", cancelled)


def test_what_was_not_announced_is_refused() -> None:
    copy = FileImage({"x": (torch.float32, (10,)), "y": (torch.float32, (2,))})
    with pytest.raises(ValueError, match=r"x: announced \(10,\), got \(9,\)"):
        copy.fill([torch.zeros(9), torch.zeros(2)])
    with pytest.raises(ValueError, match="shorter"):
        copy.fill([torch.zeros(10)])
