"""Values that pass between the parts of an evaluation, samples and verdicts, and the files that they lie in."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json, regular, write_json
from megatron_octo.runfiles.steps import end_last_line

LANGUAGES = ("python", "js", "java", "go", "cpp", "rust")


class Kind(StrEnum):
    """How a program ended. Only ``PASSED`` counts; ``INFRASTRUCTURE`` is retried and never counted as a failure."""

    PASSED = "passed"
    WRONG = "wrong"
    EXCEPTION = "exception"
    COMPILE_ERROR = "compile_error"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    TAMPERED = "tampered"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Verdict:
    """Result of one program.

    Attributes:
        kind: how it ended.
        level: 2 where the program cannot forge it, 1 where it could with knowledge of the protocol.
        detail: printable words about the end, at most 2,000 characters.
        compile_cpu_s: CPU seconds of compilation inside the sandbox; ``run_cpu_s`` of the run, ``wall_s`` of both.
        cached: whether it was taken from the cache.
    """

    kind: Kind
    level: int
    detail: str = ""
    compile_cpu_s: float = 0.0
    run_cpu_s: float = 0.0
    wall_s: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class Sample:
    """One generation of a model.

    Attributes:
        task: name of the task; ``problem``: number of the row, from 0; ``sample``: number among its samples, from 0.
        text: what was generated after the prompt, whole.
        tokens: number of generated tokens.
        stop: why generation ended: ``eos``, ``stop word``, ``syntax`` or ``length``.
        prompt_digest: digest of the prompt that was sent.
    """

    task: str
    problem: int
    sample: int
    text: str
    tokens: int
    stop: str
    prompt_digest: str


HEADER, SAMPLES, VERDICTS = "evaluation.json", "samples", "verdicts"
SCORES, REPORT, PAGE = "scores.json", "report.md", "report.html"


@dataclass(frozen=True)
class ScoredSample:
    """A verdict and the sample that it is about.

    Attributes:
        problem: of the sample; ``sample``: its number.
        program: digest of the program that ran.
        toolchain: digest of the compilers.
        cut: what was cut from the answer (benchmark/cutting.py).
        solution: head of the function and code, as they were judged; empty if it passed.
    """

    problem: int
    sample: int
    program: str
    toolchain: str
    cut: str
    verdict: Verdict
    solution: str = ""


_TOLD = {"model"}  # of a header: where the model lies may change, its digest may not


class Lines:
    """A file of JSON lines to append to. Each line is one write: a kill leaves whole lines and at most a part of one.

    A part of a line that is there already is removed.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(path)
        self._handle = os.open(regular(path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def append(self, record: dict[str, Any]) -> None:
        """Append a record."""
        data = json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n"
        while data:
            data = data[os.write(self._handle, data) :]

    def close(self) -> None:
        """Bring all lines to the disk."""
        os.fsync(self._handle)
        os.close(self._handle)


def open_header(output: Path, section: str, values: Mapping[str, Any]) -> None:
    """Write a section of the header, or compare it with what is there; keys that are new are added.

    Args:
        output: directory of the evaluation.
        section: ``generation`` or ``scoring``.
        values: what decides the results.

    Raises:
        OctoError: a value differs, so that results would be mixed; names keys and values.
    """
    path = output / HEADER
    output.mkdir(parents=True, exist_ok=True)
    header = read_header(output)
    before = header.get(section, {})
    compared = (before.keys() & values.keys()) - _TOLD
    if differing := sorted(key for key in compared if before[key] != values[key]):
        lines = "; ".join(f"{key}: {before[key]!r} there, {values[key]!r} now" for key in differing)
        raise OctoError(
            f"this directory holds results made otherwise: {lines}",
            where=path,
            hint="the same options go on; others need another --output",
        )
    if before.keys() < {**before, **values}.keys():
        write_json(path, {"format": 1, **header, section: {**values, **before}})


def read_header(output: Path) -> dict[str, Any]:
    """Return the header of a directory; empty if there is none."""
    path = output / HEADER
    return dict(read_json(path)) if path.exists() else {}


def samples_path(output: Path, task: str) -> Path:
    """Return the file of a task's samples."""
    return output / SAMPLES / f"{task}.jsonl"


def verdicts_path(output: Path, task: str) -> Path:
    """Return the file of a task's verdicts."""
    return output / VERDICTS / f"{task}.jsonl"


def sample_record(sample: Sample) -> dict[str, Any]:
    """Return the line of a sample."""
    record = asdict(sample)
    del record["task"]
    return record


def read_samples(output: Path, task: str) -> dict[tuple[int, int], Sample]:
    """Return the samples of a task by problem and number; the first of equal numbers counts.

    Raises:
        OctoError: a line is no sample; names file and line.
    """
    path = samples_path(output, task)
    found: dict[tuple[int, int], Sample] = {}
    for number, record in _records(path):
        try:
            sample = Sample(task=task, **record)
            if not isinstance(sample.text, str):
                raise ValueError("its text is none")
            found.setdefault((int(sample.problem), int(sample.sample)), sample)
        except (TypeError, ValueError) as error:
            raise OctoError(f"not a sample: {error}", where=f"{path}:{number}") from None
    return found


def verdict_record(scored: ScoredSample) -> dict[str, Any]:
    """Return the line of a verdict."""
    record = asdict(scored)
    record.update(record.pop("verdict"))
    return record


def read_verdicts(output: Path, task: str) -> dict[tuple[int, int], ScoredSample]:
    """Return the verdicts of a task by problem and number; the last of equal numbers counts.

    Raises:
        OctoError: a line is no verdict; names file and line.
    """
    path = verdicts_path(output, task)
    names = [field.name for field in fields(Verdict)]
    found: dict[tuple[int, int], ScoredSample] = {}
    for number, record in _records(path):
        try:
            own = {name: record.pop(name) for name in names}
            verdict = Verdict(**{**own, "kind": Kind(own["kind"])})
            scored = ScoredSample(verdict=verdict, **record)
            found[scored.problem, scored.sample] = scored
        except (KeyError, TypeError, ValueError) as error:
            raise OctoError(f"not a verdict: {error}", where=f"{path}:{number}") from None
    return found


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and content of the complete lines."""
    if not path.exists():
        return
    for number, line in enumerate(regular(path).read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise OctoError(f"not JSON: {error}", where=f"{path}:{number}") from None
        if not isinstance(record, dict):
            raise OctoError("not an object", where=f"{path}:{number}")
        yield number, record
