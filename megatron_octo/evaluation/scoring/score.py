"""From answers to verdicts: a queue of samples over threads, each with a sandbox of its own."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from megatron_octo.common.errors import OctoError
from megatron_octo.common.records import Report, ignore
from megatron_octo.evaluation.benchmark.cutting import cut
from megatron_octo.evaluation.benchmark.rows import Row
from megatron_octo.evaluation.benchmark.tasks import Task
from megatron_octo.evaluation.languages.base import Language, Program
from megatron_octo.evaluation.records import Judged, Key, Kind, Verdict
from megatron_octo.evaluation.sandbox.box import Sandbox
from megatron_octo.evaluation.sandbox.levels import Level
from megatron_octo.evaluation.sandbox.limits import Limits
from megatron_octo.evaluation.scoring.cache import VerdictCache, cache_key
from megatron_octo.evaluation.scoring.progress import Meter
from megatron_octo.evaluation.scoring.slots import take_slots

TRIES = 3  # of a sample whose sandbox fails
_NAMED = 3  # samples that an error names


@dataclass(frozen=True)
class Work:
    """One answer to judge.

    Attributes:
        task: whose answers are code.
        row: the problem.
        sample: number among the problem's answers.
        text: the answer, as generated after the prompt.
        stop: the prompt's stop words.
        made: the whole program's solution, where the answer is not to be cut (already assembled by another harness).
    """

    task: Task
    row: Row
    sample: int
    text: str
    stop: tuple[str, ...] = ()
    made: str | None = None

    @property
    def key(self) -> Key:
        """Task, problem and sample."""
        return self.task.name, self.row.number, self.sample


@dataclass(frozen=True)
class Assembled:
    """An answer that is ready to be judged."""

    cut: str
    solution: str
    program: Program


type Assemble = Callable[[Work], Assembled]


@dataclass
class Scorer:
    """Everything that judges samples.

    Attributes:
        languages: by name; those of the samples.
        level: of the sandboxes.
        limits: of each run.
        jobs: number of threads.
        slots: folder of the locks of sandboxes' numbers.
        cache: of verdicts.
        assemble: how answers become programs; None: cut by syntax, as the languages assemble.
        report: takes a line about an infrastructure's failure that is retried.
    """

    languages: Mapping[str, Language]
    level: Level
    limits: Limits
    jobs: int
    slots: Path
    cache: VerdictCache = field(default_factory=lambda: VerdictCache(None))
    assemble: Assemble | None = None
    report: Report = ignore

    def default_assemble(self, work: Work) -> Assembled:
        """Cut an answer by syntax and join it with its test."""
        language = self.languages[work.row.language]
        if work.made is not None:
            return Assembled("none", work.made, language.program(work.row, work.made))
        made = cut(work.task, work.row, work.text, stop=work.stop)
        return Assembled(made.what, made.solution, language.program(work.row, made.solution))

    def score(
        self,
        works: Iterable[Work],
        known: Mapping[Key, Judged],
        record: Callable[[Judged], None],
        meter: Meter,
    ) -> None:
        """Judge answers; each verdict is recorded as soon as it is there.

        Args:
            works: the answers.
            known: verdicts of an earlier run. One whose program is the same counts, and is not recorded again.
            record: takes a verdict; called by one thread at a time.
            meter: counts them.

        Raises:
            OctoError: sandboxes failed, three times for the same sample. The other samples are judged before that.
        """
        queue = _Queue(works)
        failed: list[tuple[Key, str]] = []
        lock = threading.Lock()

        def finish(judged: Judged, new: bool) -> None:
            with lock:
                if judged.verdict.kind == Kind.INFRASTRUCTURE:
                    failed.append((judged.key, judged.verdict.detail))
                    return
                if new:
                    record(judged)
                meter.update(judged.verdict)

        with self._sandboxes() as boxes:
            threads = [threading.Thread(target=queue.drain, args=(self._worker(box, known, finish),)) for box in boxes]
            queue.run(threads)
        if failed:
            raise _refusal(failed)

    def _worker(
        self, box: Sandbox, known: Mapping[Key, Judged], finish: Callable[[Judged, bool], None]
    ) -> Callable[[Work], None]:
        def judge(work: Work) -> None:
            assembled = (self.assemble or self.default_assemble)(work)
            old = known.get(work.key)
            if old is not None and old.program == assembled.program.digest:
                finish(_as_known(old), False)
                return
            verdict = self._verdict(self.languages[work.row.language], assembled.program, box, work.key)
            name, number, sample = work.key
            program = assembled.program.digest
            finish(Judged(name, number, sample, program, assembled.cut, assembled.solution, verdict), True)

        return judge

    def _verdict(self, language: Language, program: Program, box: Sandbox, key: Key) -> Verdict:
        place = cache_key(program, language.toolchain(), self.limits)
        found = self.cache.get(place)
        if found is not None:
            return found
        for left in range(TRIES - 1, -1, -1):
            try:
                verdict = language.judge(program, box, self.limits)
            except OSError as error:  # no process, no memory, no descriptor: the machine's, not the program's
                verdict = Verdict(Kind.INFRASTRUCTURE, 1, f"{type(error).__name__}: {error}")
            if verdict.kind != Kind.INFRASTRUCTURE:
                break
            again = f", {left} more" if left else ""
            self.report(f"{key[0]}, problem {key[1]}, sample {key[2]}: sandbox failed{again}: {verdict.detail}")
        self.cache.put(place, verdict)
        return verdict

    @contextmanager
    def _sandboxes(self) -> Iterator[list[Sandbox]]:
        with ExitStack() as stack:
            numbers = stack.enter_context(take_slots(self.jobs, self.slots))
            yield [stack.enter_context(Sandbox(self.level, number)) for number in numbers]


class _Queue:
    """Works that several threads take in order, until one of them fails or the user interrupts."""

    def __init__(self, works: Iterable[Work]) -> None:
        self._works, self._lock, self._stop = iter(works), threading.Lock(), threading.Event()
        self._error: BaseException | None = None

    def drain(self, judge: Callable[[Work], None]) -> None:
        """Take works until there are none."""
        while not self._stop.is_set():
            try:
                with self._lock:
                    work = next(self._works, None)
                if work is None:
                    return
                judge(work)
            except BaseException as error:
                self._error = self._error or error
                self._stop.set()

    def run(self, threads: list[threading.Thread]) -> None:
        """Start the threads and wait for them; after an interruption they finish what they have in hand."""
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error


def _as_known(old: Judged) -> Judged:
    verdict = Verdict(**{**vars(old.verdict), "cached": True})
    return Judged(**{**vars(old), "verdict": verdict})


def _refusal(failed: list[tuple[Key, str]]) -> OctoError:
    named = "; ".join(f"{key[0]} {key[1]}/{key[2]}: {detail[:200]}" for key, detail in sorted(failed)[:_NAMED])
    return OctoError(
        f"no score: the sandbox failed {TRIES} times for {len(failed)} sample{'s' * (len(failed) > 1)} ({named})",
        where="evaluate score",
        hint="evaluate doctor; then the same command again: verdicts that are there are kept",
    )
