"""A solution in one sandbox and its test in another, which exchange plain values: a verdict that cannot be forged.

The solution's process is asked to call functions and answers with values. The test's process never runs anything of
the solution; it stays, and runs one test after another.
"""

import json
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from megatron_octo.common.terminal import printable
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.limits import Limits, Mount, Outcome

if TYPE_CHECKING:
    from megatron_octo.evaluation.sandbox.box import Sandbox, Session

LEVEL = 2
LONGEST = 16 << 20  # bytes of a message
_TESTER = Limits(cpu_s=1e6, wall_s=1e6, memory_bytes=2 << 30, address_bytes=0)
_KINDS = {"cpu": Kind.CPU_LIMIT, "wall": Kind.WALL_LIMIT, "memory": Kind.MEMORY, "output": Kind.OUTPUT_LIMIT}
_DETAIL = 2000


class EndedError(Exception):
    """Raised when a process ended, sent too much, or let the time pass."""


@dataclass(frozen=True)
class Side:
    """Command of one of the two processes, with what its sandbox holds."""

    argv: Sequence[str]
    files: Mapping[str, bytes]
    mounts: Sequence[Mount] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Line:
    """Messages to and from a process, one JSON text per line."""

    def __init__(self, session: "Session") -> None:
        self.session, self._buffer = session, b""

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            EndedError: it no longer reads.
        """
        try:
            view = memoryview(json.dumps(message).encode() + b"\n")
            while view:
                view = view[self.session.stdin.write(view) or 0 :]
        except OSError:
            raise EndedError from None

    def receive(self, deadline: float) -> Any:
        """Return the next message.

        Raises:
            EndedError: the process ended, sent what is no message, or nothing until ``deadline`` (monotonic seconds).
        """
        source = self.session.stdout.fileno()
        while b"\n" not in self._buffer:
            if len(self._buffer) > LONGEST:
                raise EndedError("output")
            ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise EndedError("wall")
            block = os.read(source, 1 << 18)
            if not block:
                raise EndedError
            self._buffer += block
        text, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise EndedError("output") from None


class Testers:
    """Processes that run tests, one per slot; they stay until :meth:`close`."""

    def __init__(self, side: Side) -> None:
        self._side, self._lines, self._lock = side, dict[int, Line](), threading.Lock()

    def line(self, box: "Sandbox") -> Line:
        """Return the tester of a slot."""
        with self._lock:
            found = self._lines.get(box.slot)
        if found is None:
            side = self._side
            found = Line(
                box.start(side.argv, files=side.files, mounts=side.mounts, environment=side.environment, limits=_TESTER)
            )
            with self._lock:
                self._lines[box.slot] = found
            box.at_close(lambda: self.drop(box))
        return found

    def drop(self, box: "Sandbox") -> None:
        """End the tester of a slot; the next test starts another."""
        with self._lock:
            line = self._lines.pop(box.slot, None)
        if line:
            line.session.kill()
            line.session.close()

    def close(self) -> None:
        """End all."""
        with self._lock:
            lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            line.session.kill()
            line.session.close()


def judge(solution: Side, job: Mapping[str, Any], testers: Testers, box: "Sandbox", limits: Limits) -> Verdict:
    """Run a solution and its test.

    Args:
        solution: the solution's process.
        job: what the tester is told.
        testers: of the language.
        box: sandbox for both.
        limits: of the solution.
    """
    started = time.monotonic()
    deadline = started + limits.wall
    session = box.start(
        solution.argv, files=solution.files, mounts=solution.mounts, environment=solution.environment, limits=limits
    )
    answers, reason, end = Line(session), "", None
    try:
        first = answers.receive(deadline)
        if isinstance(first, dict) and first.get("ready"):
            end = _test(testers, box, job, answers, deadline)
        elif isinstance(first, dict) and ("syntax" in first or "raised" in first):
            end = {"end": "syntax" if "syntax" in first else "exception"}
            end["text"] = ": ".join(map(str, first.get("syntax") or first.get("raised") or ()))
        else:
            reason = "output"
    except EndedError as error:
        reason = str(error)
    if reason:
        session.kill()
    outcome = session.close(wait_s=1.0)
    verdict = verdict_of(end, reason, outcome)
    return Verdict(
        verdict.kind,
        LEVEL,
        printable(verdict.detail, keep="\n")[:_DETAIL],
        run_cpu_s=outcome.cpu_s,
        wall_s=time.monotonic() - started,
    )


def _test(testers: Testers, box: "Sandbox", job: Mapping[str, Any], answers: Line, deadline: float) -> dict[str, Any]:
    """Let the tester run, and pass its calls on; returns its last message.

    Raises:
        EndedError: the solution's process ended or let the time pass.
    """
    tester = testers.line(box)
    try:
        tester.send(job)
        while True:
            message = tester.receive(deadline + 30)
            if "end" in message:
                return dict(message)
            try:
                answers.send(message)
                answer = answers.receive(deadline)
            except EndedError:
                tester.send({"gone": True})
                tester.receive(deadline + 30)
                raise
            tester.send(answer if isinstance(answer, dict) else {"gone": True})
    except EndedError:
        if tester.session.ended():
            testers.drop(box)
            return {"end": "tester"}
        raise


def verdict_of(end: Mapping[str, Any] | None, reason: str, outcome: Outcome) -> Verdict:
    """Return the verdict of a run: the tester's last message, or why there is none."""
    text = str(end.get("text", "")) if end else ""
    what = end["end"] if end else ""
    if outcome.trouble:
        return Verdict(Kind.INFRASTRUCTURE, LEVEL, f"the program cannot start: {outcome.trouble}")
    if what == "tester":
        return Verdict(Kind.INFRASTRUCTURE, LEVEL, "the test's process ended")
    if what == "passed":
        return Verdict(Kind.PASSED, LEVEL)
    if what == "wrong":
        return Verdict(Kind.WRONG, LEVEL, text)
    if what == "syntax":
        return Verdict(Kind.COMPILE_ERROR, LEVEL, text)
    if what == "exception":
        kind = Kind.MEMORY if text.startswith(("MemoryError", "RuntimeError: MemoryError")) else Kind.EXCEPTION
        return Verdict(kind, LEVEL, text)
    if reason in ("wall", "output"):
        return Verdict(_KINDS[reason], LEVEL, f"limit: {reason}")
    if outcome.limit:
        return Verdict(_KINDS[outcome.limit], LEVEL, f"limit: {outcome.limit}")
    if outcome.exit_code == 0:
        return Verdict(Kind.TAMPERED, LEVEL, "the program ended with code 0 before its test did")
    how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
    return Verdict(Kind.EXCEPTION, LEVEL, f"the program ended before its test did: {how}")
