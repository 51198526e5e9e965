"""Turns signals and the end of the job's time into "save after this step, then leave". Imports no torch."""

import os
import re
import signal
import subprocess
import time
from types import FrameType

from megatron_octo.runfiles.attempts import WALL_CLOCK

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
REASONS = (*(f"signal {number.name}" for number in SIGNALS), WALL_CLOCK)
_LEFT = re.compile(r"^(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)$")


class StopRequest:
    """Remembers that this rank was asked to stop. The ranks agree on it once a step (see metrics.py).

    SLURM sends SIGUSR1 before the time limit (``--signal``) and SIGTERM at preemption, not to all ranks at once;
    submitit's default is SIGUSR2.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self.made = time.time()
        for number in SIGNALS:
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)

    @property
    def reason(self) -> str | None:
        """One of REASONS, or None: go on."""
        return f"signal {self._signal.name}" if self._signal else None


class WallClock:
    """When the run has to leave: early enough to save before its time is over.

    Args:
        start: Unix time at which the process began.
        wall_minutes: time that the recipe gives; None: no limit of its own.
        reserve_minutes: kept free for saving, but never more than a tenth of the whole time; if three steps and two
            saves of this run take longer, they count.
    """

    def __init__(self, start: float, wall_minutes: float | None, reserve_minutes: float):
        ends = [start + 60 * wall_minutes] if wall_minutes else []
        if (job := slurm_end()) is not None:
            ends.append(job)
        self.end: float | None = min(ends, default=None)
        self._reserve = min(60 * reserve_minutes, (self.end - start) / 10) if self.end else 0.0
        self._step = self._save = self._validation = 0.0

    def saw_step(self, seconds: float) -> None:
        self._step = max(self._step, seconds)

    def saw_save(self, seconds: float) -> None:
        self._save = max(self._save, seconds)

    def saw_validation(self, seconds: float) -> None:
        self._validation = max(self._validation, seconds)

    def is_over(self, validation_comes: bool = False) -> bool:
        """Whether to save and leave after this step; ``validation_comes``: else one follows before the next chance."""
        if self.end is None:
            return False
        needed = 3 * self._step + 2 * self._save + (self._validation if validation_comes else 0.0)
        return time.time() + max(self._reserve, needed) > self.end


def slurm_end() -> float | None:
    """Unix time at which SLURM ends this job; None outside of a job, without a limit, or if SLURM does not say."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return None
    if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
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
    """``[days-][hours:]minutes:seconds`` as squeue prints it; None for UNLIMITED and what is no time."""
    match = _LEFT.match(text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
