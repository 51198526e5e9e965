"""The size of a data set from the heads of its files, compared with the whole index."""

from pathlib import Path

import numpy as np
import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.data.dataset.header import count_documents, read_header
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.data.dataset.writer import IndexedWriter
from tests.conftest import write_corpus


def test_is_what_the_whole_index_says(tmp_path: Path) -> None:
    prefix = write_corpus(tmp_path / "a", documents=17)
    corpus = open_corpus(prefix)
    header = read_header(Path(f"{prefix}.idx"))
    assert count_documents(prefix) == header.documents == len(corpus) == 17
    assert (header.sequences, header.has_modes) == (34, True)


def test_an_empty_data_set(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "a", 1000) as writer:
        writer.finish()
        writer.commit()
    assert count_documents(tmp_path / "a") == 0


def test_the_older_layout(tmp_path: Path) -> None:
    for part, documents in (("inputs", 3), ("targets", 3)):
        write_corpus(tmp_path / f"a_{part}_document", documents)
    assert count_documents(tmp_path / "a") == 3
    write_corpus(tmp_path / "a_targets_document", 4)
    with pytest.raises(OctoError, match="3 documents of inputs but 4 of targets"):
        count_documents(tmp_path / "a")


@pytest.mark.parametrize("suffix", ["bin", "idx"])
@pytest.mark.parametrize("change", ["missing", "cut", "longer", "empty"])
def test_damage_is_found(tmp_path: Path, suffix: str, change: str) -> None:
    path = Path(f"{write_corpus(tmp_path / 'a')}.{suffix}")
    data = path.read_bytes()
    path.unlink() if change == "missing" else path.write_bytes(
        {"cut": data[:-1], "longer": data + b"\0", "empty": b""}[change]
    )
    with pytest.raises(OctoError) as error:
        count_documents(tmp_path / "a")
    assert str(path) in str(error.value)


def test_no_index(tmp_path: Path) -> None:
    np.zeros(9).tofile(tmp_path / "a.idx")
    with pytest.raises(OctoError, match="not a Megatron index"):
        read_header(tmp_path / "a.idx")
