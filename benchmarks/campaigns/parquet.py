"""Damaged parquet files: each is refused, or gives the tokens of the undamaged one."""

import hashlib
import random
from pathlib import Path
from typing import Any

from benchmarks.campaigns.attack import Campaign, Outcome, damage_bytes, ending
from benchmarks.campaigns.inputs import make_rows
from benchmarks.preprocess_kills import make_tokenizer
from benchmarks.support import forks

_GIB = 1 << 30
# All have checksums of their pages: without them a changed text is another text.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"compression": "none", "use_dictionary": False},
    "plain, statistics": {"compression": "none", "use_dictionary": False, "write_statistics": True},
    "dictionary": {"compression": "none"},
    "snappy, many groups": {"compression": "snappy", "row_group_size": 30},
    "zstd": {"compression": "zstd", "data_page_size": 512},
    "pages of version 2": {"compression": "snappy", "data_page_version": "2.0", "data_page_size": 512},
}


def _write(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"inputs": [r["inputs"] for r in make_rows()], "outputs": [r["outputs"] for r in make_rows()]})
    for name, options in KINDS.items():
        settings = {"write_statistics": False, **options}
        pq.write_table(table, folder / f"{name}.parquet", write_page_checksum=True, **settings)


class Attacks(Campaign):
    """One bit, byte, hole or cut anywhere in a file."""

    count = 400

    def __init__(self, folder: Path) -> None:
        """Write a file of each kind and its data set."""
        super().__init__(folder)
        forks.warm_up("megatron_octo.preprocess", "megatron_octo.data.preprocessing.pipeline")
        self.tokenizer = make_tokenizer(folder / "tokenizer.json")
        code, _ = forks.call(lambda: _write(folder), folder / "write.log")
        assert code == 0, (folder / "write.log").read_text()
        self.wanted = {}
        for name in KINDS:
            done, digest = self._preprocess(folder / f"{name}.parquet", folder)
            assert done.code == 0, done.text
            self.wanted[name] = digest

    def _preprocess(self, path: Path, folder: Path) -> tuple[forks.Done, str]:
        prefix = folder / path.stem
        words: list[str | Path] = ["--input", path, "--output-prefix", prefix, "--workers", "1"]
        words += ["--tokenizer", self.tokenizer]
        done = forks.command("megatron_octo.preprocess", words, folder / "log", memory=4 * _GIB)
        files = [Path(f"{prefix}.{suffix}") for suffix in ("bin", "idx")]
        if not all(file.exists() for file in files):
            return done, ""
        return done, hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Damage one file."""
        name = generator.choice(list(KINDS))
        data = (self.folder / f"{name}.parquet").read_bytes()
        way, damaged = "bit", data
        while damaged == data:
            if generator.random() < 0.7:
                place = generator.randrange(len(data))
                damaged = data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :]
                way = "bit"
            else:
                way, damaged = damage_bytes(data, generator)
        path = folder / f"{name}.parquet"
        path.write_bytes(damaged)
        done, digest = self._preprocess(path, folder)
        if fault := ending(done):
            return Outcome(name, "", f"{way}: {fault}")
        if done.code:
            return Outcome(name, "refused")
        equal = digest == self.wanted[name]
        return Outcome(name, "equal", "" if equal else f"{way}: exit code 0 and other tokens")
