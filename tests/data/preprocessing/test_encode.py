"""Rows of JSON: what is a bad row, by which reason, and what is none."""

import orjson
import pytest

from megatron_octo.data.preprocessing import encode
from megatron_octo.data.preprocessing.encode import parse_row
from megatron_octo.data.text.formats import RowError


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a', "broken JSON"),
        (b'{"text": NaN}', "broken JSON"),
        (b'{"text": "a"} {"text": "b"}', "broken JSON"),
        (b'{"text": "a\x00"}', "broken JSON"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
        (b"[1, 2]", "not an object"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"text": "\\ud800"}', "lone surrogate"),
        (b'{"text": "a", "text": "b"}', "key given twice"),
        (b'{"more": {"x": 1}, "text" : "a", "text": "b"}', "key given twice"),
    ],
)
def test_bad_rows(line: bytes, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse_row(line, [b'"text"'])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a"}',
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "a"}\r',
        b'{"text": "a", "more": {"text": "b"}}',
        b'{"text": "a", "more": "text", "other": ["text"], "n": ' + b"9" * 30 + b"}",
        b'{"text": "a", "twice": 1, "twice": 2}',  # a key that nothing reads
        b'{"text": "a", "more": "\\"text\\": \\"text\\""}',
    ],
)
def test_good_rows(line: bytes) -> None:
    assert parse_row(line, [b'"text"'])["text"] == "a"


@pytest.mark.parametrize("message", ["failed to allocate memory", "Not enough memory to allocate buffer for parsing"])
def test_memory_is_no_bad_row(monkeypatch: pytest.MonkeyPatch, message: str) -> None:
    """The library reports a lack of memory as an error of syntax."""

    def loads(line: bytes) -> object:
        raise orjson.JSONDecodeError(message, "", 0)

    monkeypatch.setattr(encode.orjson, "loads", loads)
    with pytest.raises(MemoryError):
        parse_row(b'{"text": "a"}')
