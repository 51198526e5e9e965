"""Any box of a tensor comes back, however it was cut into fragments."""

import itertools
import random
from pathlib import Path

import pytest
import torch

from megatron_octo.checkpoint.directory import Fragment, Manifest, TensorEntry, write_manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPE_NAMES
from tests.models import small_model

MODEL = small_model(num_layers=1)
Cut = tuple[tuple[int, ...], tuple[int, ...], tuple[int, int] | None]


def store(directory: Path, whole: torch.Tensor, cuts: list[Cut], files: int = 2) -> CheckpointReader:
    """Write ``whole`` as a tensor ``x`` in these pieces, dealt out to several files."""
    directory.mkdir(parents=True, exist_ok=True)
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(files)]
    fragments = []
    for number, (offset, shape, flat) in enumerate(cuts):
        piece = whole[tuple(slice(o, o + s) for o, s in zip(offset, shape))]
        if flat:
            piece = piece.reshape(-1)[flat[0] : flat[1]]
        parts[number % files][f"x{number}"] = piece
        fragments.append(Fragment(f"part-{number % files}", f"x{number}", offset, shape, flat))
    records = {}
    for number, tensors in enumerate(parts):
        specs = {key: (tensor.dtype, tuple(tensor.shape)) for key, tensor in tensors.items()}
        with SafetensorsWriter(directory / f"part-{number}", specs) as writer:
            for key, tensor in tensors.items():
                writer.write(key, tensor)
            records[f"part-{number}"] = writer.close()
    entry = TensorEntry(tuple(whole.shape), DTYPE_NAMES[whole.dtype], tuple(fragments))
    write_manifest(directory, Manifest(MODEL, 1, "fp32", None, records, {"weights": {"x": entry}}))
    return CheckpointReader(directory)


def random_cuts(rng: random.Random, shape: tuple[int, ...]) -> list[Cut]:
    """Tensor parallelism on a random axis, then data parallelism over the flat boxes, at random borders."""
    axis, parts = rng.randrange(len(shape)), rng.randint(1, 4)
    borders = sorted({0, shape[axis], *(rng.randint(0, shape[axis]) for _ in range(parts - 1))})
    cuts: list[Cut] = []
    for start, end in itertools.pairwise(borders):
        offset, extent = [0] * len(shape), list(shape)
        offset[axis], extent[axis] = start, end - start
        size = torch.Size(extent).numel()
        if rng.random() < 0.3:
            cuts.append((tuple(offset), tuple(extent), None))
            continue
        flat = sorted({0, size, *(rng.randint(0, size) for _ in range(rng.randint(0, 4)))})
        cuts += [(tuple(offset), tuple(extent), (low, high)) for low, high in itertools.pairwise(flat)]
    rng.shuffle(cuts)
    return cuts


@pytest.mark.parametrize("seed", range(40))
def test_any_box_from_any_fragmentation(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    shape = tuple(rng.randint(1, 12) for _ in range(rng.choice([1, 2, 2])))
    dtype = rng.choice([torch.float32, torch.bfloat16])
    whole = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    reader = store(tmp_path / "c", whole, random_cuts(rng, shape), rng.randint(1, 3))
    reader.verify()
    assert torch.equal(reader.read("x"), whole)
    for _ in range(10):
        offset = tuple(rng.randrange(extent) for extent in shape)
        extent = tuple(rng.randint(1, full - start) for full, start in zip(shape, offset))
        box = whole[tuple(slice(o, o + e) for o, e in zip(offset, extent))]
        assert torch.equal(reader.read("x", "weights", offset, extent), box)
        start = rng.randrange(box.numel())
        end = rng.randint(start, box.numel())
        assert torch.equal(reader.read_flat("x", "weights", offset, extent, start, end), box.reshape(-1)[start:end])


def test_flat_ranges_of_the_stored_boxes(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    cuts: list[Cut] = [((0, 0), (3, 4), (0, 5)), ((0, 0), (3, 4), (5, 12)), ((3, 0), (3, 4), (0, 12))]
    reader = store(tmp_path, whole, cuts)
    for start in range(12):
        for end in range(start, 13):
            assert torch.equal(reader.read_flat("x", "weights", (0, 0), (3, 4), start, end), whole.view(-1)[start:end])


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    reader = store(tmp_path / "hole", whole, [((0, 0), (3, 4), None)])
    assert torch.equal(reader.read("x", "weights", (1, 1), (2, 2)), whole[1:3, 1:3])
    with pytest.raises(OctoError, match="'x' is incomplete"):
        reader.read("x")
    gap = store(tmp_path / "gap", whole, [((0, 0), (6, 4), (0, 5)), ((0, 0), (6, 4), (6, 24))])
    with pytest.raises(OctoError, match="do not cover"):
        gap.read("x")
    with pytest.raises(OctoError, match="no weights of 'y'"):
        gap.read("y")
    with pytest.raises(OctoError, match="no exp_avg of 'x'"):
        gap.read("x", "exp_avg")


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "header"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    store(tmp_path, whole, [((0, 0), (3, 4), None), ((3, 0), (3, 4), None)]).verify()
    file = tmp_path / "part-1"
    data = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        data[-1 if damage == "flipped" else 0] ^= 0xFF
        file.write_bytes(data)
    reader = CheckpointReader(tmp_path)
    with pytest.raises(OctoError, match="part-1"):
        reader.verify()
    if damage != "flipped":  # what only the digest can find
        with pytest.raises(OctoError, match=r"damaged|missing"):
            reader.read("x")
    else:  # also on the way
        reader.read("x")
        with pytest.raises(OctoError, match="part-1 has changed"):
            reader.finish()


def bytes_read() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


@pytest.mark.parametrize("stream", [False, True])
def test_every_byte_is_read_once(tmp_path: Path, stream: bool) -> None:
    """Loading and comparing digests together read a file once, and map nothing of it."""
    whole = torch.arange(1 << 20, dtype=torch.float32).reshape(1024, 1024)
    cuts: list[Cut] = [((row, 0), (256, 1024), (0, 256 * 1024)) for row in range(0, 1024, 256)]
    store(tmp_path, whole, cuts, files=1)
    size = (tmp_path / "part-0").stat().st_size
    reader = CheckpointReader(tmp_path, stream)
    before = bytes_read()
    for row in range(0, 1024, 256):
        for start in (0, 100_000):
            end = 100_000 if start == 0 else 256 * 1024
            found = reader.read_flat("x", "weights", (row, 0), (256, 1024), start, end)
            assert torch.equal(found, whole[row : row + 256].reshape(-1)[start:end])
    assert reader.digested() == {"part-0": size}
    reader.finish()
    assert size <= bytes_read() - before < 1.01 * size
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
