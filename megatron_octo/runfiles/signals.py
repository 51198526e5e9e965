"""Turns signals and the end of the job's time into requests to save after a step and leave. Imports no torch."""

import os
import re
import signal
import subprocess
import time
from types import FrameType

from megatron_octo.runfiles.attempts import WALL_CLOCK

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
REASONS = (*(f"signal {number.name}" for number in SIGNALS), WALL_CLOCK)
INTERRUPTED = 128 + signal.SIGINT  # exit code after a second Ctrl-C, as shells have it
_LEFT = re.compile(r"^(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")


class StopRequest:
    """Remembers the first signal that asked this rank to stop. The ranks agree once per step (engine/metrics.py).

    SLURM sends SIGUSR1 before the time limit (``--signal``) and SIGTERM at preemption, not to all ranks at once;
    submitit's default is SIGUSR2; Ctrl-C is SIGINT. A second SIGINT ends the process at once.

    Attributes:
        made: Unix time at which this was made.
        wakeup: file descriptor that becomes readable when a signal arrives, even while native code runs.
        watched: whether a thread reads ``wakeup`` and ends the process at a second SIGINT.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._interrupts = 0
        self.made, self.watched = time.time(), False
        self.wakeup, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(send, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number)
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1 and not self.watched:
            os._exit(INTERRUPTED)

    def interrupts(self) -> int:
        """Return how many SIGINTs have arrived since the last call; for the thread that watches ``wakeup``."""
        try:
            return os.read(self.wakeup, 1 << 10).count(signal.SIGINT)
        except BlockingIOError:
            return 0

    @property
    def reason(self) -> str | None:
        """One of REASONS, or None to go on."""
        return f"signal {self._signal.name}" if self._signal else None


class WallClock:
    """Decides when the run has to leave, early enough to save before its time is over.

    Args:
        start: Unix time at which the process began.
        wall_minutes: time limit of the recipe; None: none.
        reserve_minutes: kept free for saving, at most a tenth of the whole time; three steps and two saves of this run
            count if they take longer.
    """

    def __init__(self, start: float, wall_minutes: float | None, reserve_minutes: float):
        ends = [start + 60 * wall_minutes] if wall_minutes else []
        if (job := slurm_end()) is not None:
            ends.append(job)
        self.end: float | None = min(ends, default=None)
        self._reserve = min(60 * reserve_minutes, (self.end - start) / 10) if self.end else 0.0
        self._step = self._save = self._validation = 0.0

    def saw_step(self, seconds: float) -> None:
        """Note how long a step took."""
        self._step = max(self._step, seconds)

    def saw_save(self, seconds: float) -> None:
        """Note how long a save took."""
        self._save = max(self._save, seconds)

    def saw_validation(self, seconds: float) -> None:
        """Note how long a validation took."""
        self._validation = max(self._validation, seconds)

    def is_over(self, validation_comes: bool = False) -> bool:
        """Return whether to save and leave after this step; else a validation may come before the next chance."""
        if self.end is None:
            return False
        needed = 3 * self._step + 2 * self._save + (self._validation if validation_comes else 0.0)
        return time.time() + max(self._reserve, needed) > self.end


def slurm_end() -> float | None:
    """Return the Unix time at which SLURM ends this job; None outside of a job, without a limit, or if unknown."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdecimal():
        return float(end)
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--jobs", job, "--format", "%L"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return time.time() + left if (left := seconds_left(answer.stdout.strip())) is not None else None


def seconds_left(text: str) -> float | None:
    """Return seconds of ``[days-][hours:]minutes:seconds`` as squeue prints it; None for anything else."""
    match = _LEFT.match(text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
