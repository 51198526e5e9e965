"""One start of a run: the run directory's lock, the data, the checkpoint to go on from. Every rank runs this code."""

import time
from collections.abc import Callable

from megatron_octo.checkpoint import directory as layout
from megatron_octo.model.platform.grid import Grid
from megatron_octo.recipe.loading import check_batch
from megatron_octo.recipe.schema import Recipe
from megatron_octo.runfiles.attempts import FINISHED, read_state
from megatron_octo.runfiles.history import changed_settings, described
from megatron_octo.runfiles.run_directory import RunDirectory
from megatron_octo.runfiles.run_lock import HEARTBEAT, RunLock
from megatron_octo.runfiles.signals import StopRequest
from megatron_octo.training.engine.datasets import Corpora, open_corpora
from megatron_octo.training.engine.verification import Verified, verify_tokens
from megatron_octo.training.preflight import preflight
from megatron_octo.training.readiness.first_weights import check_match
from megatron_octo.training.state.checkpoint_choice import finished_step
from megatron_octo.training.state.resume import tidy
from megatron_octo.training.supervision.rank_agent import Watch


class Ownership:
    """Checks that this process still has the lock of its run; to be called before anything in the run is changed.

    The lock file is read if that has not happened for a heartbeat, a sleep of the machine included: another attempt may
    have taken over meanwhile.
    """

    def __init__(self, lock: RunLock | None):
        self._lock = lock
        self._looked = _clock()

    def __call__(self, now: bool = False) -> None:
        """Look at the lock; with ``now`` in any case.

        Raises:
            MachineError: another attempt took over.
            OSError: the file system does not answer.
        """
        if self._lock is None:
            return
        look = now or _clock() - self._looked > HEARTBEAT
        self._lock.check(now=look)
        if look:
            self._looked = _clock()


def _clock() -> float:
    """Seconds that go on while the machine is suspended, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Run:
    """A start of a run. Nothing in the run directory changes before training really begins.

    Args:
        stop: made before the imports, so that a signal during the start is not lost.
        watch: ends the run if a rank dies or hangs.
    """

    def __init__(self, recipe: Recipe, grid: Grid, stop: StopRequest | None = None, watch: Watch | None = None):
        check_batch(recipe, grid.layout.data)
        self.recipe, self.grid, self.watch, self.stop = recipe, grid, watch, stop or StopRequest()
        self.directory = RunDirectory(recipe, grid.is_main)
        self._lock = grid.main_first(self.directory.lock)
        if watch and self._lock:
            watch.before_leaving = self._lock.release
        self.owned: Callable[..., None] = Ownership(self._lock)
        self.lines: list[str] = []  # for the log, which is opened later
        self.verified = Verified({})
        self.corpora: Corpora = open_corpora(recipe, self.directory, grid)
        folder, corpora = self.directory.checkpoints, self.corpora
        grid.main_first(
            lambda: check_match(recipe, folder, corpora.digest, corpora.tokenizer) if grid.is_main else None
        )

    def train(self, loop: Callable[["Run"], int]) -> int:
        """Prepare and call ``loop``, which trains to the last step; return the process's exit code."""
        try:
            step = finished_step(self.directory.checkpoints, self.recipe.train.steps, self.grid)
            if step is not None:
                return self._finish(step)
            self.prepare()
            return loop(self)
        finally:
            if self._lock:
                self._lock.release()

    def prepare(self) -> None:
        """Check the machines and the data's digests, before the model takes time and memory. Collective."""
        recipe, run = self.recipe, self.directory.path
        if self.grid.is_main and layout.candidates(self.directory.checkpoints):
            self.lines += described(changed_settings(run, recipe))
        if recipe.data.verify:
            self.verified = verify_tokens(set(self.corpora.prefixes), run, self.grid)
            self.lines += [self.verified.text] if self.verified.text else []
        self.lines += preflight(recipe, self.grid, self.directory, self.corpora.digest)

    def _finish(self, step: int) -> int:
        """Leave a run that is finished as it is; return 0."""
        if not self.grid.is_main:
            return 0
        ignored = "; ".join(map(str, changed_settings(self.directory.path, self.recipe)))
        print(
            f"already finished at step {step}, nothing was changed"
            + (f"; these settings were ignored: {ignored}" if ignored else ""),
            flush=True,
        )
        self.owned(now=True)
        self.directory.remove_leftovers()
        if read_state(self.directory.path).status != FINISHED:
            # A kill between the last checkpoint and its record leaves a state that is still running.
            tidy(self.directory.checkpoints, self.recipe, step)
            self.directory.open_attempt(self.recipe, self.grid.world, self.corpora.digest)
            self.directory.write_state(FINISHED, step, steps=self.recipe.train.steps, saved=step)
            self.directory.end_attempt(FINISHED, 0, step)
        return 0
