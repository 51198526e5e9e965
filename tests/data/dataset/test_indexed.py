import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_file
from megatron_octo.data.dataset.indexed import IndexedDataset, PairedDataset, open_corpus
from megatron_octo.data.dataset.writer import IndexedWriter

Document = list[tuple[list[int], int]]
SAMPLE: list[Document] = [
    [([6, 7], 0), ([8], 1)],
    [([9, 10, 11], 1)],
    [([1], 0), ([2, 3], 1), ([4], 0), ([5, 6], 1)],
]


def write(prefix: Path, documents: list[Document], vocab_size: int = 1000) -> dict:
    with IndexedWriter(prefix, vocab_size) as writer:
        for document in documents:
            writer.add_document(document)
        files = writer.finish()
        writer.commit()
    return files


def test_byte_layout(tmp_path: Path) -> None:
    files = write(tmp_path / "p", SAMPLE[:2])
    assert (tmp_path / "p.bin").read_bytes() == struct.pack("<6H", 6, 7, 8, 9, 10, 11)
    assert (tmp_path / "p.idx").read_bytes() == (
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, 3, 3)
        + struct.pack("<3i", 2, 1, 3)
        + struct.pack("<3q", 0, 4, 6)
        + struct.pack("<3q", 0, 2, 3)
        + bytes([0, 1, 1])
    )
    for name in ("bin", "idx"):
        assert files[name]["digest"] == digest_file(tmp_path / f"p.{name}")
        assert files[name]["bytes"] == (tmp_path / f"p.{name}").stat().st_size


@pytest.mark.parametrize(("vocab_size", "code", "width"), [(65499, 8, 2), (65500, 4, 4)])
def test_token_width(tmp_path: Path, vocab_size: int, code: int, width: int) -> None:
    write(tmp_path / "p", [[([vocab_size - 1], 1)]], vocab_size)
    assert (tmp_path / "p.idx").read_bytes()[17] == code
    assert (tmp_path / "p.bin").stat().st_size == width
    assert open_corpus(tmp_path / "p").document(0)[0].tolist() == [vocab_size - 1]


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    write(tmp_path / "p", SAMPLE)
    corpus = open_corpus(tmp_path / "p")
    assert len(corpus) == 3
    for number, document in enumerate(SAMPLE):
        tokens, is_target = corpus.document(number)
        assert tokens.tolist() == [token for ids, _ in document for token in ids]
        assert is_target.tolist() == [bool(mode) for ids, mode in document for _ in ids]
    assert corpus.document_lengths().tolist() == [3, 3, 6]
    assert corpus.document_targets().tolist() == [1, 3, 4]
    assert list(corpus.problems(vocab_size=12)) == []
    assert list(corpus.problems(vocab_size=11)) == ["1 token ids are outside the vocabulary of 11"]


def test_megatron_reads_ours_and_we_read_megatrons(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    torch = pytest.importorskip("torch")
    write(tmp_path / "ours", SAMPLE)
    theirs = indexed.IndexedDataset(str(tmp_path / "ours"), multimodal=True)
    flat = [sequence for document in SAMPLE for sequence in document]
    assert len(theirs) == len(flat)
    for number, (ids, mode) in enumerate(flat):
        found, found_mode = theirs[number]
        assert (found.tolist(), int(found_mode)) == (ids, mode)
    assert theirs.document_indices.tolist() == [0, 2, 3, 7]
    for modes in (True, False):
        name = str(tmp_path / f"theirs{modes}")
        builder = indexed.IndexedDatasetBuilder(f"{name}.bin", dtype=np.int32, multimodal=modes)
        for document in SAMPLE:
            tokens = torch.tensor([token for ids, _ in document for token in ids])
            lengths = [len(ids) for ids, _ in document]
            builder.add_document(tokens, lengths, [mode for _, mode in document] if modes else None)
        builder.finalize(f"{name}.idx")
        corpus = open_corpus(name)
        for number, document in enumerate(SAMPLE):
            found, is_target = corpus.document(number)
            assert found.tolist() == [token for ids, _ in document for token in ids]
            assert is_target.tolist() == [bool(mode) or not modes for ids, mode in document for _ in ids]
    # The same documents give the same bytes in both writers.
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "same.bin"), dtype=np.uint16, multimodal=True)
    for document in SAMPLE:
        tokens = torch.tensor([token for ids, _ in document for token in ids])
        builder.add_document(tokens, [len(ids) for ids, _ in document], [mode for _, mode in document])
    builder.finalize(str(tmp_path / "same.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"same.{suffix}").read_bytes() == (tmp_path / f"ours.{suffix}").read_bytes()


def _damage(data: bytes, kind: str) -> bytes:
    return {
        "truncated": data[:-1],
        "longer": data + b"\0\0",
        "empty": b"",
        "magic": b"X" + data[1:],
        "version": data[:9] + struct.pack("<Q", 2) + data[17:],
        "float": data[:17] + b"\x06" + data[18:],
        "count": data[:18] + struct.pack("<Q", 99) + data[26:],
        "length": data[:34] + struct.pack("<i", 5) + data[38:],
        "negative": data[:34] + struct.pack("<ii", -1, 4) + data[42:],
        "indices": data[:70] + struct.pack("<q", 7) + data[78:],
    }[kind]


@pytest.mark.parametrize(
    ("suffix", "kind", "says"),
    [
        ("bin", "truncated", "11 bytes, but the index needs 12"),
        ("bin", "longer", "14 bytes, but the index needs 12"),
        ("bin", "empty", "0 bytes, but the index needs 12"),
        ("idx", "truncated", "index of 96 bytes, needed 94 or 97"),
        ("idx", "longer", "index of 99 bytes, needed 94 or 97"),
        ("idx", "empty", "(0 bytes)"),
        ("idx", "magic", "not a Megatron index"),
        ("idx", "version", "version 2"),
        ("idx", "float", "dtype code 6"),
        ("idx", "count", "for 99 sequences"),
        ("idx", "length", "but the index needs 18"),
        ("idx", "negative", "negative length"),
        ("idx", "indices", "do not cover the 3 sequences"),
    ],
)
def test_damage_is_found_at_opening(tmp_path: Path, suffix: str, kind: str, says: str) -> None:
    write(tmp_path / "p", SAMPLE[:2])
    path = tmp_path / f"p.{suffix}"
    path.write_bytes(_damage(path.read_bytes(), kind))
    with pytest.raises(OctoError) as caught:
        open_corpus(tmp_path / "p")
    assert says in caught.value.what
    # Lengths that do not fit the tokens may be either file's fault.
    assert str(caught.value.where) == str(tmp_path / "p.bin" if kind == "length" else path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OctoError, match="no data set here"):
        open_corpus(tmp_path / "p")
    write(tmp_path / "p", SAMPLE)
    (tmp_path / "p.bin").unlink()
    with pytest.raises(OctoError) as caught:
        open_corpus(tmp_path / "p")
    assert str(caught.value.where) == str(tmp_path / "p.bin")


def test_older_pair_is_one_corpus(tmp_path: Path) -> None:
    write(tmp_path / "p_inputs_document", [[([6, 7], 1)], [([3, 4], 1)]])
    write(tmp_path / "p_targets_document", [[([8], 1)], [([5, 9, 1], 1)]])
    corpus = open_corpus(tmp_path / "p")
    assert isinstance(corpus, PairedDataset)
    assert corpus.document(1)[0].tolist() == [3, 4, 5, 9, 1]
    assert corpus.document(1)[1].tolist() == [False, False, True, True, True]
    assert corpus.document_lengths().tolist() == [3, 5]
    assert corpus.document_targets().tolist() == [1, 3]
    whole = corpus.target_labels(np.arange(2), np.zeros(2, np.int64), np.array([2, 4]))
    assert whole.tolist() == [1, 3]
    assert corpus.target_labels(np.array([1]), np.array([2]), np.array([2])).tolist() == [2]
    write(tmp_path / "p_targets_document", [[([8], 1)]])
    with pytest.raises(OctoError, match="2 documents of inputs but 1 of targets"):
        open_corpus(tmp_path / "p")


documents = st.lists(
    st.lists(
        st.tuples(st.lists(st.integers(0, 99), min_size=0, max_size=5), st.integers(0, 1)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(documents, st.data())
def test_target_labels_equal_counting(
    tmp_path_factory: pytest.TempPathFactory, given: list, data: st.DataObject
) -> None:
    prefix = tmp_path_factory.mktemp("labels") / "p"
    write(prefix, given)
    corpus = IndexedDataset(prefix)
    for number in range(len(given)):
        is_target = corpus.document(number)[1]
        assert corpus.document_lengths()[number] == len(is_target)
        assert corpus.document_targets()[number] == is_target.sum()
        if len(is_target) < 2:
            continue
        first = data.draw(st.integers(0, len(is_target) - 2))
        length = data.draw(st.integers(1, len(is_target) - 1 - first))
        found = corpus.target_labels(np.array([number]), np.array([first]), np.array([length]))
        assert found.tolist() == [is_target[first + 1 : first + 1 + length].sum()]


def test_writer_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    write(tmp_path / "p", SAMPLE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError), IndexedWriter(tmp_path / "p", 1000) as writer:
        writer.add_document([([1, 2], 1)])
        raise RuntimeError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
