"""One evaluation from parts that several machines made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_directory
from megatron_octo.evaluation.benchmark.tasks import all_tasks, task_named
from megatron_octo.evaluation.records import (
    Judged,
    Key,
    Sample,
    append,
    differences,
    open_header,
    read_header,
    read_samples,
    read_verdicts,
    samples_file,
    verdicts_file,
)
from megatron_octo.evaluation.results.numbers import ranges
from megatron_octo.evaluation.results.summary import expected_problems


@dataclass(frozen=True)
class Merged:
    """What a merge found: numbers of samples and verdicts by task, and problems without samples by task."""

    samples: dict[str, int]
    verdicts: dict[str, int]
    missing: dict[str, list[int]]

    def lines(self) -> list[str]:
        """Return one line per task."""
        found = []
        for task, count in self.samples.items():
            lack = self.missing.get(task, [])
            gaps = f", missing problems: {ranges(lack)}" if lack else ""
            found.append(f"{task}: {count} samples, {self.verdicts.get(task, 0)} verdicts{gaps}")
        return found


def merge(parts: Sequence[Path], output: Path, *, allow_missing: bool = False) -> Merged:
    """Join parts into a new folder.

    Args:
        parts: folders of evaluations with equal headers, except for their tasks and the section ``about``.
        output: folder to make.
        allow_missing: make it although problems are missing.

    Raises:
        OctoError: headers differ, a sample has different contents in two parts, or problems are missing (all named).
    """
    headers = {part: read_header(part) for part in parts}
    first, *rest = parts
    for part in rest:
        if found := differences(headers[first], headers[part]):
            raise OctoError(
                f"parts of different evaluations: {'; '.join(found)} (there: {first})",
                where=part,
                hint="merge parts that were made with the same arguments",
            )
    samples = _joined(parts, samples_file, read_samples)
    verdicts = _joined(parts, verdicts_file, read_verdicts)
    merged = _counted(samples, verdicts, list(headers.values()))
    if merged.missing and not allow_missing:
        words = "; ".join(f"{task}: {ranges(numbers)}" for task, numbers in merged.missing.items())
        raise OctoError(
            f"problems are missing: {words}", where=output, hint="run these first (--problems), or --allow-missing"
        )
    with atomic_directory(output) as folder:
        for header in headers.values():
            open_header(folder, header)
        for name, records in (*samples.items(), *verdicts.items()):
            of = samples_file if isinstance(next(iter(records.values())), Sample) else verdicts_file
            for key in sorted(records):
                append(of(folder, name), records[key])
    return merged


def _joined(parts: Sequence[Path], place: Any, read: Any) -> dict[str, dict[Key, Any]]:
    found: dict[str, dict[Key, Any]] = {}
    for task in all_tasks():
        joined: dict[Key, Any] = {}
        for part in parts:
            for key, record in read(place(part, task.name)).items():
                if _content(joined.setdefault(key, record)) != _content(record):
                    raise OctoError(
                        f"{key[0]}, problem {key[1]}, sample {key[2]}: different contents in two parts",
                        where=place(part, task.name),
                        hint="each problem belongs into one part; made twice, it has to be the same",
                    )
        if joined:
            found[task.name] = joined
    return found


def _content(record: Sample | Judged) -> Any:
    if isinstance(record, Sample):
        return record
    # Seconds and words (addresses, paths) differ from run to run.
    return record.program, record.solution, record.verdict.kind, record.verdict.level


def _counted(
    samples: Mapping[str, Mapping[Key, Any]],
    verdicts: Mapping[str, Mapping[Key, Any]],
    headers: Sequence[Mapping[str, Any]],
) -> Merged:
    missing = {}
    for task, records in samples.items():
        language = task_named(task).language
        wanted = {number for header in headers for number in expected_problems(header, language)}
        if lack := sorted(wanted - {key[1] for key in records}):
            missing[task] = lack
    count = {task: len(records) for task, records in samples.items()}
    return Merged(count, {task: len(records) for task, records in verdicts.items()}, missing)
