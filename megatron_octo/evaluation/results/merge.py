"""Parts of an evaluation that several machines made, put together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_octo.common.errors import OctoError
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
    for part in parts:
        header = records.read_header(part)
        if not header:
            raise OctoError("not an evaluation: no evaluation.json", where=part)
        for section, values in header.items():
            if isinstance(values, dict):
                try:
                    records.open_header(output, section, values)
                except OctoError as error:
                    raise OctoError(
                        error.what, where=part, hint="its options are not those of the parts before"
                    ) from None
    samples, verdicts, missing = {}, {}, {}
    for task in all_tasks():
        samples[task.name] = _join_samples(parts, output, task.name)
        verdicts[task.name] = _join_verdicts(parts, output, task.name)
        if samples[task.name] and expect is not None:
            there = {problem for problem, _ in records.read_samples(output, task.name)}
            missing[task.name] = tuple(sorted(set(range(expect)) - there))
    return Merged(
        {name: count for name, count in samples.items() if count},
        {name: count for name, count in verdicts.items() if count},
        {name: problems for name, problems in missing.items() if problems},
    )


def _join_samples(parts: Sequence[Path], output: Path, task: str) -> int:
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
    if new:
        lines = records.Lines(records.samples_path(output, task))
        for _, sample in sorted(new.items()):
            lines.append(records.sample_record(sample))
        lines.close()
    return len(found) + len(new)


def _join_verdicts(parts: Sequence[Path], output: Path, task: str) -> int:
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
    if new:
        lines = records.Lines(records.verdicts_path(output, task))
        for _, scored in sorted(new.items()):
            lines.append(records.verdict_record(scored))
        lines.close()
    return len(found) + len(new)
