"""The stage ``history``: repositories to rows, some thousand commits a part."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.commits.history.extract import Source, Wanted, rows_of, wanted_blobs
from megatron_octo.commits.history.git import run
from megatron_octo.commits.history.remote import fetch_blobs, is_blobless
from megatron_octo.commits.history.repositories import Clones, Opening, Repository
from megatron_octo.commits.history.walk import commit_ids
from megatron_octo.commits.rows import Job, Row, Task, run_tasks
from megatron_octo.common.errors import OctoError

PART = 4096  # commits of a part
_SHARE = 1 << 16  # of a repository in the progress, shared out to its parts


@dataclass(frozen=True)
class Choice:
    """Which commits of a repository are read.

    Attributes:
        revisions: where to begin; ``--all`` for all branches and tags.
        limit: the most commits of a repository, newest first.
    """

    revisions: tuple[str, ...] = ("HEAD",)
    limit: int | None = None


@dataclass(frozen=True)
class _Part:
    """The work of a part; it travels to a process."""

    source: Source
    ids: tuple[str, ...]
    wanted: Wanted
    timeout: float

    def __call__(self, write: Callable[[Row], None]) -> dict[str, Any]:
        count: Counter[str] = Counter()
        if is_blobless(self.source.directory):
            count["fetched"] = fetch_blobs(
                self.source.directory, wanted_blobs(self.source, self.ids, self.wanted), timeout=self.timeout
            )
        for row in rows_of(self.source, self.ids, self.wanted, count):
            write(row)
        return {"repository": self.source.name, "license": self.source.license, **count}


@dataclass
class Failures:
    """Repositories that could not be read: name as given, and why."""

    stop: bool
    found: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def note(self, repository: Repository, error: OctoError) -> None:
        """Note a failure, or raise it."""
        if self.stop:
            raise OctoError(error.what, where=repository.given, hint=error.hint or "--on-error skip leaves it out")
        self.found.append((repository.given, error.what))


def read_histories(
    repositories: Sequence[Repository],
    output: str | Path,
    wanted: Wanted,
    *,
    choice: Choice,
    clones: Clones,
    licence: str | None = None,
    jobs: int = 1,
    skip: bool = False,
    leave_out: bool = False,
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Write the rows of repositories, in their order, newest commit first.

    Args:
        repositories: local and remote ones; up to ``jobs`` are cloned at the same time, four at most.
        output: a folder, or a file of rows by its suffix.
        wanted: which commits become rows.
        choice: where to begin.
        clones: how remote ones are cloned.
        licence: of all rows; None: by each repository's licence file.
        jobs: number of processes.
        skip: leave out repositories that cannot be cloned or read.
        leave_out: leave dropped rows out of the output.

    Returns:
        The manifest, and the repositories that were left out with the reason.

    Raises:
        OctoError: a repository that cannot be read, unless ``skip``.
    """
    settings = {"wanted": dataclasses.asdict(wanted), "licence": licence}
    failures = Failures(stop=not skip)
    with Opening(list(repositories), clones, licence, min(jobs, 4)) as opened:
        heads = [_state(opened, number, choice, failures, each) for number, each in enumerate(repositories)]
        inputs = [
            {"repository": each.given, "ids": digest, "commits": len(ids)}
            for each, (ids, digest) in zip(repositories, heads)
        ]

        def tasks() -> Iterator[Task]:
            for number, (ids, _) in enumerate(heads):
                for start in range(0, len(ids), PART):
                    yield _task(opened[number], ids[start : start + PART], len(ids), wanted, clones.timeout)

        total = _SHARE * sum(bool(ids) for ids, _ in heads)
        job = Job("history", settings, leave_out)
        manifest = run_tasks(job, tasks(), output, inputs=inputs, total=total, jobs=jobs)
    return manifest, failures.found


def _state(
    opened: Opening, number: int, choice: Choice, failures: Failures, repository: Repository
) -> tuple[list[str], str]:
    """Return the commits of a repository with their digest; none where it cannot be read and that is noted."""
    try:
        source = opened[number]
        if choice.revisions == ("HEAD",) and not run(source.directory, "for-each-ref", "--count=1"):
            return [], "empty"
        ids = commit_ids(source.directory, choice.revisions, choice.limit)
    except OctoError as error:
        failures.note(repository, error)
        return [], "failed"
    return ids, _digest(ids)


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode("ascii")).hexdigest()[:32]


def _task(source: Source, ids: Sequence[str], count: int, wanted: Wanted, timeout: float) -> Task:
    identity = {
        "repository": source.name,
        "directory": source.directory,
        "license": source.license,
        "ids": _digest(ids),
    }
    share = max(_SHARE * len(ids) // count, 1)
    return Task(identity, _Part(source, tuple(ids), wanted, timeout), share)
