"""Tests of the records of an evaluation: headers that refuse to mix, lines that survive a kill."""

import dataclasses
import threading
from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.records import (
    HEADER,
    Judged,
    Kind,
    Sample,
    Verdict,
    append,
    open_header,
    read_header,
    read_samples,
    read_verdicts,
    samples_file,
)

_TASK = "humanevalsynthesize-python"


def _sample(number: int, text: str = "\n    return 1\n") -> Sample:
    return Sample(_TASK, 0, number, text, 3, "eos", "xxh3-128:0")


def test_a_header_grows_by_new_keys_and_refuses_other_values(tmp_path: Path) -> None:
    output = tmp_path / "new" / "evaluation"
    open_header(output, {"generation": {"seed": 0, "data": {"python": "a"}}, "about": {"host": "one"}})
    merged = open_header(output, {"generation": {"seed": 0, "data": {"go": "b"}}, "about": {"host": "two"}})
    assert merged == read_header(output)
    assert merged["generation"]["data"] == {"python": "a", "go": "b"} and merged["about"]["host"] == "one"
    with pytest.raises(OctoError, match=r"generation\.data\.go: \"b\" there, \"c\" now; generation\.seed: 0 there, 1"):
        open_header(output, {"generation": {"seed": 1, "data": {"go": "c"}}})
    assert read_header(output) == merged


def test_samples_without_a_header_are_refused(tmp_path: Path) -> None:
    append(samples_file(tmp_path, _TASK), _sample(0))
    with pytest.raises(OctoError, match="without a header"):
        open_header(tmp_path, {"generation": {}})
    with pytest.raises(OctoError, match="not the folder of an evaluation"):
        read_header(tmp_path)
    (tmp_path / HEADER).write_text("[1]")
    with pytest.raises(OctoError, match="not a header"):
        read_header(tmp_path)


@pytest.mark.parametrize("cut", [1, 40, 10**6])
def test_a_half_written_last_line_is_dropped_and_made_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "samples" / "x.jsonl"
    long = "y" * 200_000
    for number in range(3):
        append(path, _sample(number, long))
    whole = path.read_bytes()
    last = len(whole) - whole.rstrip(b"\n").rfind(b"\n") - 1
    path.write_bytes(whole[: len(whole) - min(cut, last)])
    assert [key[2] for key in read_samples(path)] == [0, 1]
    append(path, _sample(2, long))
    assert path.read_bytes() == whole


def test_texts_with_any_characters_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    texts = ["a\u2028b\u0085c", "\0\r\n", "half \ud83d", "\U0001f419", ""]
    for number, text in enumerate(texts):
        append(path, _sample(number, text))
    assert path.read_bytes().count(b"\n") == len(texts)
    assert [sample.text for sample in read_samples(path).values()] == [text.replace("\ud83d", "?") for text in texts]


def test_a_line_that_is_no_sample_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append(path, _sample(0))
    path.write_bytes(path.read_bytes() + b'{"task": "t"}\n')
    with pytest.raises(OctoError) as caught:
        read_samples(path)
    assert str(caught.value.where) == f"{path}:2"


def test_a_sample_may_come_twice_if_it_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append(path, _sample(0))
    append(path, _sample(0))
    assert len(read_samples(path)) == 1
    append(path, _sample(0, "other"))
    with pytest.raises(OctoError, match="comes twice"):
        read_samples(path)
    assert read_samples(tmp_path / "missing.jsonl") == {}


def test_the_last_verdict_of_a_sample_counts(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    first = Judged(_TASK, 1, 2, "digest", "none", "def f(): pass", Verdict(Kind.CPU_LIMIT, 2, "5 s", 0.0, 5.0, 6.0))
    last = dataclasses.replace(first, program="another", verdict=Verdict(Kind.PASSED, 2))
    append(path, first)
    append(path, last)
    assert read_verdicts(path) == {(_TASK, 1, 2): last}


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"

    def write(start: int) -> None:
        for number in range(start, start + 50):
            append(path, _sample(number, "z" * number))

    threads = [threading.Thread(target=write, args=(50 * each,)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key[2] for key in read_samples(path)) == list(range(200))
