"""Our safetensors writer against the safetensors library."""

from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file

from megatron_octo.checkpoint.digest import digests
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.torch_dtypes import DTYPE_NAMES


def write(path: Path, tensors: dict[str, torch.Tensor], **options: dict[str, str]) -> str:
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, specs, **options) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        record = writer.close()
    assert record["bytes"] == path.stat().st_size
    return record["digest"]


def sample() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "odd/bytes": torch.randint(0, 255, (7,), dtype=torch.uint8, generator=generator),
        "matrix": torch.randn(5, 3, generator=generator),
        "half": torch.randn(4, 4, generator=generator).bfloat16(),
        "transposed": torch.randn(6, 2, generator=generator).t(),
        "nothing": torch.empty(0, 9),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "ünï": torch.arange(4),
    }


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    tensors = sample()
    digest = write(tmp_path / "a.safetensors", tensors, metadata={"format": "pt"})
    found = load_file(tmp_path / "a.safetensors")
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    path = tmp_path / "a.safetensors"
    assert digest == digests([path])[path]


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(6).to(dtype).reshape(2, 3)
    write(tmp_path / "a.safetensors", {"x": tensor})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], tensor)


def test_extreme_values_keep_their_bits(tmp_path: Path) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    write(tmp_path / "a.safetensors", {"x": bits.view(torch.bfloat16)})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"].view(torch.int16), bits)


def test_same_tensors_same_bytes(tmp_path: Path) -> None:
    digests = {write(tmp_path / name, sample()) for name in ("a", "b")}
    assert len(digests) == 1


def test_out_of_order_wrong_shape_and_forgotten_tensors_are_refused(tmp_path: Path) -> None:
    specs = {"a": (torch.float32, (2,)), "b": (torch.float32, (3,))}
    with SafetensorsWriter(tmp_path / "x", specs) as writer:
        with pytest.raises(ValueError, match="expected tensor"):
            writer.write("b", torch.zeros(3))
        with pytest.raises(ValueError, match="announced"):
            writer.write("a", torch.zeros(2, dtype=torch.bfloat16))
        with pytest.raises(ValueError, match="announced"):
            writer.write("a", torch.zeros(1, 2))
        writer.write("a", torch.zeros(2))
        with pytest.raises(ValueError, match="never written"):
            writer.close()
