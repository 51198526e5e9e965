"""Tests of the records of an evaluation: headers that refuse to mix, lines that survive a kill."""

from pathlib import Path

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.records import (
    Kind,
    Lines,
    Sample,
    open_header,
    read_header,
    read_samples,
    read_verdicts,
    sample_record,
    samples_path,
    verdict_record,
    verdicts_path,
)
from tests.evaluation.small import scored

_TASK = "humanevalsynthesize-python"


def _sample(number: int, text: str = "\n    return 1\n") -> Sample:
    return Sample(_TASK, 0, number, text, 3, "eos", "xxh3-128:0")


def _append(output: Path, *samples: Sample) -> Path:
    lines = Lines(samples_path(output, _TASK))
    for sample in samples:
        lines.append(sample_record(sample))
    lines.close()
    return samples_path(output, _TASK)


def test_a_header_grows_by_new_keys_and_refuses_other_values(tmp_path: Path) -> None:
    output = tmp_path / "new" / "evaluation"
    assert read_header(output) == {}
    open_header(output, "generation", {"seed": 0, "data.python": "a"})
    open_header(output, "generation", {"seed": 0, "data.go": "b"})
    open_header(output, "scoring", {"seed": 7})
    before = read_header(output)
    assert before["generation"] == {"seed": 0, "data.python": "a", "data.go": "b"}
    with pytest.raises(OctoError, match=r"data\.go: 'b' there, 'c' now; seed: 0 there, 1 now"):
        open_header(output, "generation", {"seed": 1, "data.go": "c", "new": 1})
    assert read_header(output) == before


@pytest.mark.parametrize("cut", [1, 40, 10**6])
def test_a_half_written_last_line_is_dropped_and_made_again(tmp_path: Path, cut: int) -> None:
    samples = [_sample(number, "y" * 200_000) for number in range(3)]
    path = _append(tmp_path, *samples)
    whole = path.read_bytes()
    last = len(whole) - whole.rstrip(b"\n").rfind(b"\n") - 1
    path.write_bytes(whole[: len(whole) - min(cut, last)])
    assert [number for _, number in read_samples(tmp_path, _TASK)] == [0, 1]
    _append(tmp_path, samples[2])
    assert path.read_bytes() == whole


def test_texts_with_any_characters_come_back(tmp_path: Path) -> None:
    texts = ["a\u2028b\u0085c", "\0\r\n", "\U0001f419", ""]
    path = _append(tmp_path, *(_sample(number, text) for number, text in enumerate(texts)))
    assert path.read_bytes().count(b"\n") == len(texts)
    assert [sample.text for sample in read_samples(tmp_path, _TASK).values()] == texts


@pytest.mark.parametrize("line", [b"{", b"[1]", b'{"problem": 0}', b'{"problem": 0, "sample": 0, "text": 3}'])
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: bytes) -> None:
    path = _append(tmp_path, _sample(0))
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(OctoError) as caught:
        read_samples(tmp_path, _TASK)
    assert str(caught.value.where) == f"{path}:2"


def test_the_first_sample_and_the_last_verdict_count(tmp_path: Path) -> None:
    _append(tmp_path, _sample(0, "first"), _sample(0, "second"))
    assert read_samples(tmp_path, _TASK)[0, 0].text == "first"
    lines = Lines(verdicts_path(tmp_path, _TASK))
    first, last = scored(0, 0, Kind.INFRASTRUCTURE), scored(0, 0, Kind.CPU_LIMIT)
    for each in (first, last):
        lines.append(verdict_record(each))
    lines.close()
    assert read_verdicts(tmp_path, _TASK) == {(0, 0): last}


def test_a_verdict_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    lines = Lines(verdicts_path(tmp_path, _TASK))
    lines.append(verdict_record(scored(0, 0)) | {"kind": "perfect"})
    lines.close()
    with pytest.raises(OctoError, match="not a verdict"):
        read_verdicts(tmp_path, _TASK)


def test_a_moved_model_is_the_same_model(tmp_path: Path) -> None:
    values = {"model": "runs/a", "model_digest": "x", "seed": 0}
    open_header(tmp_path, "generation", values)
    open_header(tmp_path, "generation", {**values, "model": "elsewhere/a"})
    assert read_header(tmp_path)["generation"]["model"] == "runs/a"
    with pytest.raises(OctoError, match="model_digest"):
        open_header(tmp_path, "generation", {**values, "model_digest": "y"})
