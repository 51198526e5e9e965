"""Programs to verdicts: languages, sandboxes and the cache, for many programs at once."""

import contextlib
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.languages import language
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.folders import sweep
from megatron_octo.evaluation.sandbox.levels import Level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.cache import VerdictCache
from megatron_octo.evaluation.scoring.compat import compat_language
from megatron_octo.evaluation.scoring.slots import slots_folder, take_slots

RETRIES = 3  # of what the machine is to blame for


@dataclass(frozen=True)
class Job[Key]:
    """A solution to be judged, with the caller's own name for it."""

    key: Key
    row: Row
    solution: str
    program: Program | None = None  # where other answers decide it, too


@dataclass(frozen=True)
class Judged[Key]:
    """A job's program and verdict."""

    job: Job[Key]
    program: Program
    toolchain: Toolchain
    verdict: Verdict


class Judge:
    """Judges solutions on all cores; a context manager, which ends what it started.

    Args:
        level: of the sandboxes.
        cache: folder for what languages build once.
        verdicts: remembered ones.
        limits: of a program's run.
        jobs: programs at once; default: one per core.
        compat: by the original harness's rules.
    """

    def __init__(
        self,
        level: Level,
        cache: Path,
        verdicts: VerdictCache | None = None,
        limits: Limits | None = None,
        jobs: int | None = None,
        *,
        compat: bool = False,
    ) -> None:
        sweep()  # what a killed one left
        self.compat = compat
        self._level, self._cache, self._limits = level, cache, limits or Limits()
        self._verdicts = verdicts or VerdictCache(None)
        self._jobs = jobs or len(os.sched_getaffinity(0))
        self._languages: dict[str, Language] = {}
        self._lock = threading.Lock()
        self._boxes: list[Sandbox] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        for found in self._languages.values():  # first what runs in the sandboxes
            found.close()
        self._boxes = []
        self._stack.close()
        self._verdicts.close()

    def boxes(self) -> list[Sandbox]:
        """Return the sandboxes, opened at the first use; their numbers belong to this process until the end."""
        if not self._boxes:
            slots = self._stack.enter_context(take_slots(self._jobs, slots_folder()))
            self._boxes = [self._stack.enter_context(Sandbox(self._level, slot)) for slot in slots]
        return self._boxes

    def language(self, name: str) -> Language:
        """Return a language, made at the first use."""
        with self._lock:
            if name not in self._languages:
                make = compat_language if self.compat else language
                self._languages[name] = make(name, self._cache)
            return self._languages[name]

    def toolchain(self, name: str) -> Toolchain:
        """Return the toolchain of a language.

        Raises:
            OctoError: it is not installed; names the packages.
        """
        found = self.language(name).toolchain()
        if not found.found:
            raise OctoError(
                f"{name} cannot be scored: {', '.join(found.missing)}",
                where="evaluate",
                hint="install what is missing (evaluate doctor lists all), or leave its tasks out",
            )
        return found

    def one(self, row: Row, solution: str, box: Sandbox, program: Program | None = None) -> tuple[Program, Verdict]:
        """Judge one solution in a sandbox of the caller's; with ``program``, that is already assembled."""
        found, toolchain = self.language(row.language), self.toolchain(row.language)
        program = program or found.program(row, solution)
        key = VerdictCache.key(program.digest, toolchain.digest, self._limits)
        verdict = self._verdicts.get(key)
        for _ in range(RETRIES):
            if verdict is None or verdict.kind is Kind.INFRASTRUCTURE:
                verdict = found.judge(program, box, self._limits)
        assert verdict is not None
        self._verdicts.put(key, verdict)
        return program, replace(verdict, detail=verdict.detail[:2000])

    def all[Key](self, jobs: Iterable[Job[Key]]) -> Iterator[Judged[Key]]:
        """Judge solutions on all cores; yields them as they end.

        Raises:
            OctoError: a toolchain is missing, or what else a worker met.
        """
        waiting: queue.Queue[Job[Key] | None] = queue.Queue(maxsize=4 * self._jobs)
        ended: queue.Queue[Judged[Key] | BaseException | None] = queue.Queue()
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=(box, waiting, ended, stop), name=f"judge-{box.slot}", daemon=True)
            for box in self.boxes()
        ]
        feeder = threading.Thread(target=_feed, args=(jobs, waiting, ended, len(threads), stop), daemon=True)
        for thread in (*threads, feeder):
            thread.start()
        left = len(threads)
        try:
            while left:
                found = ended.get()
                if found is None:
                    left -= 1
                elif isinstance(found, BaseException):
                    raise found
                else:
                    yield found
        finally:
            stop.set()
            for thread in threads:
                thread.join(timeout=60)

    def _work[Key](
        self,
        box: Sandbox,
        waiting: "queue.Queue[Job[Key] | None]",
        ended: "queue.Queue[Judged[Key] | BaseException | None]",
        stop: threading.Event,
    ) -> None:
        try:
            while not stop.is_set():
                try:
                    job = waiting.get(timeout=0.2)
                except queue.Empty:
                    continue
                if job is None:
                    break
                program, verdict = self.one(job.row, job.solution, box, job.program)
                ended.put(Judged(job, program, self.toolchain(job.row.language), verdict))
        except BaseException as error:  # goes to the thread that waits
            ended.put(error)
        ended.put(None)


def _feed[Key](
    jobs: Iterable[Job[Key]],
    waiting: "queue.Queue[Job[Key] | None]",
    ended: "queue.Queue[Judged[Key] | BaseException | None]",
    workers: int,
    stop: threading.Event,
) -> None:
    def put(job: Job[Key] | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(job, timeout=0.2)
                return
            except queue.Full:
                continue

    try:
        for job in jobs:
            put(job)
    except BaseException as error:
        ended.put(error)
    for _ in range(workers):
        put(None)
