from pathlib import Path

import pytest

from megatron_octo.commits.history.blobs import BlobReader, Content, blob_id, decode
from tests.commits.history.made import Repository


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"", Content("ok", "", 0)),
        ("é\r\n\ufeff".encode(), Content("ok", "é\r\n\ufeff", 7)),
        (b"\xef\xbb\xbfa", Content("ok", "\ufeffa", 4)),
        (b"a\0", Content("binary", None, 2)),
        (b"\xff\xfea\0", Content("binary", None, 4)),
        (b"\xe9", Content("undecodable", None, 1)),
        (b"\xed\xa0\x80", Content("undecodable", None, 3)),  # a surrogate
    ],
)
def test_decoding(data: bytes, content: Content) -> None:
    assert decode(data) == content


@pytest.mark.parametrize("sha256", [False, True])
def test_ids_are_gits(tmp_path: Path, sha256: bool) -> None:
    made = Repository(tmp_path / "repository", sha256=sha256)
    for data in (b"", b"a\n", bytes(range(256)) * 50):
        found = made.git("hash-object", "-w", "--stdin", data=data).decode().strip()
        assert blob_id(data, 64 if sha256 else 40) == found
        with BlobReader(made.path / ".git") as reader:
            assert [each.size for each in reader.read([found, found])] == [len(data)] * 2


def test_answers_keep_the_order_of_the_questions(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    commit = made.commit({"a.py": b"a\n", "large": b"x" * 100_000, "b.py": b"b\n"})
    ids = [made.blob(name) for name in ("a.py", "large", "b.py")]
    wanted = [ids[0], "0" * 40, ids[1], ids[2], commit, ids[0]]
    with BlobReader(made.path / ".git", most_bytes=50_000) as reader:
        for _ in range(3):
            found = list(reader.read(wanted))
            assert [each.state for each in found] == ["ok", "missing", "too_large", "ok", "too_large", "ok"]
            assert [each.text for each in found] == ["a\n", None, None, "b\n", None, "a\n"]
        assert list(reader.read([])) == []
        assert len(list(reader.read([ids[0]] * 1000))) == 1000
