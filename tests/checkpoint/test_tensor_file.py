"""Files of tensors read in pieces: what comes out, and what a digest along the way finds."""

import random
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_octo.checkpoint.digest import digests
from megatron_octo.checkpoint.tensor_file import Span, TensorFile, open_safetensors, read_header
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.randn(70, 3, generator=generator),
        "b": torch.randn(11, generator=generator).bfloat16(),
        "c": torch.arange(5),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt"})
    return tmp_path / "x.safetensors", tensors


def read(file: TensorFile, name: str) -> torch.Tensor:
    stored = file.tensors[name]
    buffer = bytearray(stored.size)
    file.read(stored.start, memoryview(buffer))
    return torch.frombuffer(buffer, dtype=stored.dtype).view(stored.shape)


def test_reads_what_the_safetensors_library_writes(file: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = file
    opened = open_safetensors(path)
    assert opened.tensors.keys() == tensors.keys()
    assert all(torch.equal(read(opened, name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "pieces"])
def test_any_order_gives_the_digest(pieces: bool, file: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = file
    digest = digests([path])[path] if pieces else digest_file(path)
    chance, size = random.Random(0), path.stat().st_size
    for _ in range(20):
        opened = open_safetensors(path, digest, stream=True)
        for _ in range(chance.randrange(9)):
            start = chance.randrange(size)
            buffer = bytearray(chance.randrange(1, size - start + 1))
            opened.read(start, memoryview(buffer))
            assert buffer == path.read_bytes()[start : start + len(buffer)]
        opened.finish()


def checksum(path: Path, start: int, end: int) -> str:
    return f"crc32:{zlib.crc32(path.read_bytes()[start:end]):08x}"


def test_one_bit_is_found_and_named(file: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = file
    digest, stored = digest_file(path), read_header(path)[0]
    spans = [(stored[name].start, stored[name].start + stored[name].size) for name in tensors]
    expected = [checksum(path, *span) for span in spans]
    data = bytearray(path.read_bytes())
    data[stored["b"].start + 3] ^= 4
    path.write_bytes(data)
    with pytest.raises(OctoError, match=r"x.safetensors has changed"):
        open_safetensors(path, digest).finish()
    named = TensorFile(path, stored, [Span(*span, crc) for span, crc in zip(spans, expected)])
    with pytest.raises(OctoError, match=r"damaged: b in x.safetensors has changed"):
        named.finish()


@pytest.mark.parametrize("damage", ["short", "long", "length", "json", "dtype", "offsets"])
def test_a_broken_header_is_named(damage: str, file: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, _ = file
    data = path.read_bytes()
    broken = {
        "short": data[:-1],
        "long": data + b"x",
        "length": b"\xff" * 8 + data[8:],
        "json": data[:8] + b"[" + data[9:],
        "dtype": data.replace(b'"BF16"', b'"X16 "'),
        "offsets": data.replace(b"[70,3]", b"[71,3]"),
    }[damage]
    assert broken != data
    path.write_bytes(broken)
    with pytest.raises(OctoError, match="damaged model file"):
        open_safetensors(path)
