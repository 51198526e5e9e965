"""The stages of a run on this machine, one after the other: a chain of jobs without SLURM."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from types import FrameType

from megatron_octo.cluster.job_starts import newest_checkpoint
from megatron_octo.cluster.script import code_path
from megatron_octo.cluster.stages import Command, Order, stage_of
from megatron_octo.common.errors import REQUEUE, USER_ERROR

_STOPPED = 130  # what a shell says of a command that Ctrl-C ended


def run_here(order: Order) -> int:
    """Run all stages; return the exit code of the first that fails, or 0."""
    here = _Here(order)
    with here.listening():
        for name in order.stages:
            for command in stage_of(name).commands(order):
                code = here.train(command) if stage_of(name).ranks else here.run(command)
                if code or here.stopped:
                    return code or _STOPPED
    return 0


class _Here:
    """One command at a time; a signal to this process stops it."""

    def __init__(self, order: Order):
        self.order = order
        self.stopped = False
        self._process: subprocess.Popen[bytes] | None = None
        self._farewell = signal.SIGINT

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C, a SIGTERM and the end of the terminal stop the command, and then this process."""
        before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        again, self.stopped = self.stopped, True
        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):  # it ends at this very moment
            if self._farewell == signal.SIGTERM and not again:
                process.send_signal(signal.SIGTERM)  # it tells its ranks
            else:
                os.killpg(process.pid, signal.SIGKILL if again else self._farewell)

    def train(self, command: Command) -> int:
        """Start the training again after faults, as long as that brings new checkpoints."""
        order, fruitless = self.order, 0
        while True:
            before = newest_checkpoint(order.run)
            # It saves on a SIGTERM; a SIGINT would end it at once.
            code = self.run(command, ["--nproc", str(order.world)], signal.SIGTERM)
            # REQUEUE: the training was asked to stop.
            if self.stopped or code in (0, USER_ERROR, REQUEUE):
                return code
            fruitless = 0 if newest_checkpoint(order.run) > before else fruitless + 1
            if fruitless > order.profile.max_restarts:
                print(f"# giving up: {fruitless} starts in a row brought no new checkpoint", flush=True)
                return code
            print(f"# the training ended with {code}: starting it again", flush=True)

    def run(self, command: Command, more: list[str] | None = None, farewell: signal.Signals = signal.SIGINT) -> int:
        """Run a command to its end; return its exit code."""
        if self.stopped:
            return _STOPPED
        order = self.order
        words = [order.task_python, "-m", command.module, *command.words, *(more or [])]
        print(f"# {' '.join(words)}", flush=True)
        self._farewell = farewell
        # A group of its own: Ctrl-C reaches this process alone, which passes on what the command understands.
        self._process = subprocess.Popen(words, cwd=order.folder, env=_environment(order), process_group=0)
        if self.stopped:  # a signal came while it was started
            self._process.send_signal(farewell)
        code = self._process.wait()
        return code if code >= 0 or not self.stopped else _STOPPED


def _environment(order: Order) -> dict[str, str]:
    """Return variables for the code as it was at the beginning, for all stages and restarts, as in a job."""
    environment = {**os.environ, **order.profile.environment}
    paths = [str(code_path(order)), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"}
