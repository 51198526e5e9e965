"""Values that pass between the parts of an evaluation, and the files in which they lie.

A folder of an evaluation holds ``evaluation.json`` (the header: all that decides a score), ``samples/TASK.jsonl`` and
``verdicts/TASK.jsonl``. Lines are only appended. A line that a kill left half-written is dropped, and made again.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json, regular, write_json
from megatron_octo.common.records import checked

LANGUAGES = ("python", "js", "java", "go", "cpp", "rust")
HEADER = "evaluation.json"
FREE = "about"  # section of a header that may differ between machines and restarts


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

    @property
    def key(self) -> "Key":
        """What it is a sample of."""
        return self.task, self.problem, self.sample


@dataclass(frozen=True)
class Judged:
    """Verdict of one sample.

    Attributes:
        task: as the sample's; ``problem``, ``sample``, too.
        program: digest of the program, without toolchain and limits.
        cut: effects of cutting the answer (``Cut.what``).
        solution: what was handed to the language: head of the function and code.
        verdict: how it ended.
    """

    task: str
    problem: int
    sample: int
    program: str
    cut: str
    solution: str
    verdict: Verdict

    @property
    def key(self) -> "Key":
        """What it is a verdict of."""
        return self.task, self.problem, self.sample


type Key = tuple[str, int, int]  # task, problem, sample
_SAMPLE, _JUDGED = TypeAdapter(Sample), TypeAdapter(Judged)


def samples_file(output: Path, task: str) -> Path:
    """Return where the samples of a task lie."""
    return output / "samples" / f"{task}.jsonl"


def verdicts_file(output: Path, task: str) -> Path:
    """Return where the verdicts of a task lie."""
    return output / "verdicts" / f"{task}.jsonl"


def open_header(output: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Make or extend the header of an evaluation, and refuse to mix it with another one.

    Args:
        output: folder of the evaluation; made if it is missing.
        header: nested mappings of JSON values. A key that is new is added (another task, scoring after generation);
            a value that is there has to be the same. The section ``about`` is free, and the first one stays.

    Returns:
        The whole header.

    Raises:
        OctoError: a value differs; names each. Or there are samples without a header.
    """
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output / f".{HEADER}.lock"):
        path = output / HEADER
        if not path.exists() and any(output.glob("samples/*.jsonl")):
            raise OctoError("samples without a header", where=path, hint="choose another --output")
        old = read_header(output) if path.exists() else {}
        plain = json.loads(json.dumps(header))
        if found := differences(old, plain):
            raise OctoError(
                f"this evaluation was begun otherwise: {'; '.join(found)}",
                where=path,
                hint="give the same arguments, or choose another --output",
            )
        merged = _merged(old, plain)
        if merged != old:
            write_json(path, merged)
        return merged


def read_header(output: Path) -> dict[str, Any]:
    """Read the header of an evaluation.

    Raises:
        OctoError: there is none, or it is broken.
    """
    path = output / HEADER
    if not path.exists():
        raise OctoError("not the folder of an evaluation: no evaluation.json", where=output, hint="evaluate generate")
    header = read_json(path)
    if not isinstance(header, dict):
        raise OctoError("not a header of an evaluation", where=path)
    return header


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``key: OLD there, NEW now`` for each value that both have and that differs, outside of ``about``."""
    found = []
    for name in sorted(old.keys() & new.keys()):
        if not prefix and name == FREE:
            continue
        one, other = old[name], new[name]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name}: {_short(one)} there, {_short(other)} now")
    return found


def append(path: Path, record: Sample | Judged) -> None:
    """Append a line in one step; several processes may do so at once. A half-written line before it is dropped.

    A kill loses at most this line; a power cut may lose those of the last seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode(errors="replace")  # half a surrogate pair: ?
    with open(regular(path), "a+b", buffering=0) as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        whole = _whole(file.fileno())
        os.ftruncate(file.fileno(), whole)
        try:
            if os.write(file.fileno(), line) != len(line):
                raise OctoError("no space left on the device", where=path, hint="free some; then start again")
        except BaseException:
            os.ftruncate(file.fileno(), whole)
            raise


def read_samples(path: Path) -> dict[Key, Sample]:
    """Read samples; none if there is no file.

    Raises:
        OctoError: a whole line is not a sample, or a sample comes twice with different texts.
    """
    found: dict[Key, Sample] = {}
    for where, line in _lines(path):
        sample = checked(_SAMPLE, line, where)
        if found.setdefault(sample.key, sample).text != sample.text:
            raise OctoError(f"{_name(sample.key)} comes twice, with different texts", where=where)
    return found


def read_verdicts(path: Path) -> dict[Key, Judged]:
    """Read the verdicts of samples, the last one of each; none if there is no file.

    Raises:
        OctoError: a whole line is not a verdict.
    """
    return {judged.key: judged for judged in (checked(_JUDGED, line, where) for where, line in _lines(path))}


def _name(key: Key) -> str:
    return f"{key[0]}, problem {key[1]}, sample {key[2]}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        if isinstance(value, Mapping) and isinstance(old.get(name), Mapping):
            merged[name] = _merged(old[name], value)
        else:
            merged.setdefault(name, value)
    return merged


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        data = Path(regular(path)).read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(
        data.split(b"\n")[:-1], start=1
    ):  # what follows the last end of a line is half of one
        yield f"{path}:{number}", line


def _whole(file: int) -> int:
    """Return the size of a file without a half-written last line."""
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return size
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        place = os.pread(file, end - start, start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        end = start
    return 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "wb") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
