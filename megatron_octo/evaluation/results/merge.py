"""Parts of an evaluation that several machines made, put together."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_write, write_json
from megatron_octo.evaluation import records
from megatron_octo.evaluation.benchmark.tasks import all_tasks


@dataclass(frozen=True)
class Merged:
    """What a merge took: samples and verdicts by task, and problems without samples."""

    samples: dict[str, int]
    verdicts: dict[str, int]
    missing: dict[str, tuple[int, ...]]


def merge(parts: Sequence[Path], output: Path, expect: int | None = None) -> Merged:
    """Join directories; equal samples in several are taken once.

    Args:
        parts: directories of one evaluation.
        output: directory to make, or one to add to.
        expect: number of problems of each task; those without samples are named in the result.

    Raises:
        OctoError: headers differ, or the same sample has two contents or two verdicts; names the part.
    """
    headers = []
    for part in parts:
        headers.append(records.read_header(part))
        if not headers[-1]:
            raise OctoError("not an evaluation: no evaluation.json", where=part)
    samples, verdicts, missing = {}, {}, {}
    joined: dict[Path, list[dict[str, Any]]] = {}
    for task in all_tasks():  # all are read before anything is written
        samples[task.name], joined[records.samples_path(output, task.name)] = _join_samples(parts, output, task.name)
        verdicts[task.name], joined[records.verdicts_path(output, task.name)] = _join_verdicts(parts, output, task.name)
    with tempfile.TemporaryDirectory() as name:  # a rehearsal: nothing is written if a header differs
        if header := records.read_header(output):
            write_json(Path(name) / records.HEADER, header)
        _join_headers(parts, headers, Path(name))
    _join_headers(parts, headers, output)
    for path, new in joined.items():
        _add(path, new)
    for task in all_tasks():
        if samples[task.name] and expect is not None:
            there = {problem for problem, _ in records.read_samples(output, task.name)}
            missing[task.name] = tuple(sorted(set(range(expect)) - there))
    return Merged(
        {name: count for name, count in samples.items() if count},
        {name: count for name, count in verdicts.items() if count},
        {name: problems for name, problems in missing.items() if problems},
    )


def _join_headers(parts: Sequence[Path], headers: Sequence[Mapping[str, Any]], output: Path) -> None:
    for part, header in zip(parts, headers):
        for section, values in header.items():
            if isinstance(values, dict):
                try:
                    records.open_header(output, section, values)
                except OctoError as error:
                    hint = "its options are not those of the parts before"
                    raise OctoError(error.what, where=part, hint=hint) from None


def _add(path: Path, new: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file in one step: a kill leaves the old file or the new one."""
    if not new:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.is_file() else b""
    before = before[: before.rfind(b"\n") + 1]  # without what a kill left of a line
    with atomic_write(path) as file:
        file.write(before)
        for record in new:
            file.write(json.dumps(record, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")


def _join_samples(parts: Sequence[Path], output: Path, task: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of samples of a task, and the records of those that the output lacks."""
    found = records.read_samples(output, task)
    new: dict[tuple[int, int], records.Sample] = {}
    for part in parts:
        for key, sample in records.read_samples(part, task).items():
            before = found.get(key) or new.get(key)
            if before is not None and (before.text, before.prompt_digest) != (sample.text, sample.prompt_digest):
                raise OctoError(
                    f"problem {key[0]}, sample {key[1]} has two different contents",
                    where=records.samples_path(part, task),
                    hint="parts of two evaluations cannot be mixed",
                )
            if before is None:
                new[key] = sample
    return len(found) + len(new), [records.sample_record(sample) for _, sample in sorted(new.items())]


def _join_verdicts(parts: Sequence[Path], output: Path, task: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of verdicts of a task, and the records of those that the output lacks."""
    found = records.read_verdicts(output, task)
    new: dict[tuple[int, int], records.ScoredSample] = {}
    for part in parts:
        for key, scored in records.read_verdicts(part, task).items():
            before = found.get(key) or new.get(key)
            # Seconds and words differ from machine to machine, programs and ends do not.
            if before is not None and (before.program, before.verdict.kind) != (scored.program, scored.verdict.kind):
                raise OctoError(
                    f"problem {key[0]}, sample {key[1]} has two different verdicts: {before.verdict.kind}, "
                    f"{scored.verdict.kind}",
                    where=records.verdicts_path(part, task),
                    hint="score it again on one machine",
                )
            if before is None:
                new[key] = scored
    return len(found) + len(new), [records.verdict_record(scored) for _, scored in sorted(new.items())]
