"""Files of torch.save from strangers: every damage to what describes the weights is named."""

import contextlib
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.conversion.readers.open_weights import open_weights
from megatron_octo.conversion.writers.to_bigcode import to_bigcode
from tests.conversion.models import Tensors, small_model, write_hf, write_legacy

MODEL = small_model()


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    directory = tmp_path_factory.mktemp("torch") / "hf"
    return directory, write_hf(directory, MODEL)


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
    for place in [chance.randrange(9000) for _ in range(150)] + [
        len(good) - chance.randrange(1, 4000) for _ in range(150)
    ]:
        data = bytearray(good)
        data[place] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        with contextlib.suppress(OctoError):
            open_weights(tmp_path / "legacy")


def test_files_that_cannot_be_mapped_are_said_to_be_so(hf: tuple[Path, Tensors], tmp_path: Path) -> None:
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1)
    (file,) = (tmp_path / "legacy").rglob("*.pt")
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    for order, words in ((b"big", "big-endian"), (b"little", ""), (None, "")):
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


def test_another_file_of_the_same_number_is_not_mistaken(
    hf: tuple[Path, Tensors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inodes are numbers of one file system: a library mapped from another one may have the same."""
    write_legacy(tmp_path / "legacy", hf[1], MODEL.num_layers, 1, 1)
    (file,) = (tmp_path / "legacy").rglob("*.pt")
    read = Path.read_text
    decoy = f"00001000-00002000 r--p 00000000 00:63 {file.stat().st_ino}    /elsewhere/lib.so\n"

    def maps(path: Path, *args: Any, **options: Any) -> str:
        return decoy * (path == Path("/proc/self/maps")) + read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", maps)
    name = "decoder.final_layernorm.bias"
    assert torch.equal(open_weights(tmp_path / "legacy").read(name), hf[1]["transformer.ln_f.bias"])
