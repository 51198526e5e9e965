"""Files written tensor by tensor are what torch.load reads, whatever the blocks."""

from pathlib import Path

import pytest
import torch

from megatron_octo.conversion.engine.torch_zip_sink import TorchZipSink

SPECS = {
    "wide": (torch.float32, (7, 33)),
    "half": (torch.bfloat16, (5, 3, 2)),
    "one": (torch.float16, (1,)),
}


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_torch_reads_what_was_written(tmp_path: Path, rows: int) -> None:
    torch.manual_seed(0)
    tensors = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in SPECS.items()}
    path = tmp_path / "model.pt"
    with TorchZipSink(path, SPECS, lambda made: {"args": {"rows": rows}, "model": dict(made)}) as sink:
        for name, tensor in tensors.items():
            for start in range(0, max(1, len(tensor)), rows):
                sink.write(name, tensor[start : start + rows])
        record = sink.close()
    assert record["bytes"] == path.stat().st_size
    for mapped in (False, True):  # storages lie where a memory map of them is aligned
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        assert loaded["args"] == {"rows": rows}
        assert loaded["model"].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert loaded["model"][name].dtype == tensor.dtype and torch.equal(loaded["model"][name], tensor)


def test_an_abandoned_file_is_not_left_open(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="given up"), TorchZipSink(tmp_path / "model.pt", SPECS, dict) as sink:
        sink.write("wide", torch.zeros(7, 33))
        raise RuntimeError("given up")
    with pytest.raises((RuntimeError, EOFError, OSError)):
        torch.load(tmp_path / "model.pt", weights_only=True)
