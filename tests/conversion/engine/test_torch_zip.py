"""Files of torch.save from strangers: every damage to what describes the weights is named."""

import contextlib
import functools
import importlib
import os
import random
import resource
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.engine.torch_zip import Inert, TorchFile
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from tests.conversion.models import Tensors, small_model, write_hf, write_legacy

MODEL = small_model()


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    directory = tmp_path_factory.mktemp("torch") / "hf"
    return directory, write_hf(directory, MODEL)


@pytest.mark.slow
def test_every_flip_over_the_pickle_is_named(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    """Shapes, keys, arguments: no bit of what describes the weights may change unseen, nor end in a traceback."""
    to_bigcode(open_weights(hf[0]), tmp_path / "ours")
    write_legacy(tmp_path / "theirs", hf[1], MODEL.num_layers, 1, 1)
    for legacy in ("ours", "theirs"):
        (file,) = (tmp_path / legacy).rglob("*.pt")
        good = file.read_bytes()
        with zipfile.ZipFile(file) as archive:
            places: list[int] = []
            for info in archive.infolist():
                if info.filename.rpartition("/")[2] in ("data.pkl", "byteorder", "version"):
                    start = good.index(archive.read(info), info.header_offset)
                    places += range(start, start + info.file_size)
        for place in [*places[:: len(places) // 300], *places[-8:]]:
            data = bytearray(good)
            data[place] ^= 1 << place % 8
            file.write_bytes(data)
            with pytest.raises(OctoError, match=r"(data\.pkl|byteorder|version) has changed"):
                open_weights(tmp_path / legacy)
        file.write_bytes(good)
        open_weights(tmp_path / legacy)


@pytest.mark.slow
def test_no_bytes_end_in_a_traceback(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    """Without checksums (torch can be told so), and in what is between the records."""
    from torch.serialization import get_crc32_options, set_crc32_options

    before = get_crc32_options()
    set_crc32_options(False)
    try:
        write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1)
    finally:
        set_crc32_options(before)
    (file,) = (tmp_path / "legacy").rglob("*.pt")
    good = file.read_bytes()
    open_weights(tmp_path / "legacy")
    chance = random.Random(0)
    found = 0
    for place in [chance.randrange(9000) for _ in range(150)] + [
        len(good) - chance.randrange(1, 4000) for _ in range(150)
    ]:
        data = bytearray(good)
        data[place] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        try:
            open_weights(tmp_path / "legacy")
        except OctoError:
            found += 1
    assert found > 100  # the rest are numbers, times and padding, which no structure tells from others


def test_files_that_cannot_be_mapped_are_said_to_be_so(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1)
    (file,) = (tmp_path / "legacy").rglob("*.pt")
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    for order, words in ((b"big", "only little-endian"), (b"little", ""), (None, "")):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, data in records.items():
                if not name.endswith("/byteorder"):
                    archive.writestr(name, data)
                elif order:
                    archive.writestr(name, order)
        if words:
            with pytest.raises(OctoError, match=words):
                open_weights(tmp_path / "legacy")
        else:
            open_weights(tmp_path / "legacy")
    torch.save({"model": {"weight": torch.ones(3)}}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(OctoError, match=r"format from before torch 1\.6") as error:
        open_weights(tmp_path / "legacy")
    assert "save it again" in str(error.value) and "damaged" not in str(error.value)


class Call:
    """Pickles as a call of a function that a stranger names."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    shell = f"touch {marker}"
    return {
        "system": Call(os.system, shell),
        "eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Call(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "partial": functools.partial(os.system, shell),
        "popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "torch.load": Call(torch.load, str(marker)),
        "hub": Call(torch.hub.load_state_dict_from_url, "https://localhost/x"),
        "path": marker,
        "module": Call(importlib.import_module, "antigravity"),
    }


@pytest.mark.parametrize("attack", sorted(attacks(Path("x"))))
def test_a_pickle_is_not_run(attack: str, hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1, extra=attacks(marker)[attack])
    with pytest.raises(OctoError, match="which no checkpoint needs"):
        open_weights(tmp_path / "legacy")
    assert not marker.exists()


def pickled(tree: bytes, path: Path) -> TorchFile:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", tree)
        archive.writestr("a/data/0", bytes(64))
    return TorchFile(path)


@pytest.mark.parametrize(
    "tree",
    [
        b"\x80\x02}r\xff\xff\xff\xff.",  # a memo of four billion places
        b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
        b"\x80\x05\x96" + (1 << 61).to_bytes(8, "little") + b"x.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"Pno reference\n.",
        b"",
    ],
    ids=["memo", "text", "bytearray", "marks", "nested", "persistent", "empty"],
)
def test_a_hostile_pickle_ends_at_once(tree: bytes, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(OctoError):  # a list of lists is a pickle
        pickled(tree, tmp_path / "x.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_calls_and_states_change_nothing(tmp_path: Path) -> None:
    """Whatever a pickle builds from names that checkpoints have, they stay stand-ins."""
    calls = (
        b"ctorch\nFloatStorage\n(K\x01tR",
        b"cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x01sb",
        b"cmegatron.x\nsystem\n(X\x02\x00\x00\x00lstR",
        b"ctorch._utils\n_rebuild_parameter\n)R}X\x04\x00\x00\x00nameK\x01sb",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR",
    )
    for call in calls:
        file = pickled(b"\x80\x02" + call + b".", tmp_path / "x.pt")
        assert isinstance(file.tree, Inert)
    with pytest.raises(OctoError, match="is not a tensor"):
        file.place("x", file.tree)
