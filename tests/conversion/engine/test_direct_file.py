"""A file past the page cache is the file that ordinary writes would have made."""

import random
from pathlib import Path

import pytest

from megatron_octo.checkpoint.digest import digests
from megatron_octo.conversion.engine.direct_file import DirectFile


@pytest.mark.parametrize("place", ["disk", "/dev/shm"], ids=["disk", "tmpfs"])
@pytest.mark.parametrize("size", [0, 1, 4096, 100_001, 20_000_001])
def test_same_bytes_and_digest(place: str, size: int, tmp_path: Path) -> None:
    chance = random.Random(size)
    data = chance.randbytes(size)
    path = tmp_path / "file" if place == "disk" else Path(place) / f"octo-{tmp_path.name}"
    try:
        file = DirectFile(path)
        done = 0
        while done < size:
            count = chance.randrange(1, 3_000_000)
            file.write(data[done : done + count])
            done += count
        record = file.close()
        assert path.read_bytes() == data
        assert record == {"bytes": size, "digest": digests([path])[path]}
    finally:
        path.unlink(missing_ok=True)


def test_a_full_disk_names_the_file() -> None:
    file = DirectFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left") as error:
        file.write(b"x" * 30_000_000)
        file.close()
    file.abandon()
    assert error.value.filename == "/dev/full"
