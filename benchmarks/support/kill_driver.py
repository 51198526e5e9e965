"""Interrupt commands at random moments, start them again, and compare their files with those of an undisturbed run."""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Most interruptions are kills: a signal that a program can answer is the easier case.
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
_PATIENCE_S = 60.0  # for a program that was asked to end


def arguments_of(description: str | None, kills: int) -> argparse.ArgumentParser:
    """Return the arguments that every benchmark with kills has; ``kills`` is the default of ``--kills``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=kills, help="interruptions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path, help="place for the files (default: a temporary directory)")
    parser.add_argument("--output", type=Path, help="file to which JSON lines are appended")
    return parser


def interrupt(command: Sequence[str], after: float, number: signal.Signals) -> bool:
    """Start a command in a process group of its own and send the group a signal; False if it was done before.

    Raises:
        AssertionError: the command did not end after a signal that it can answer, or ended with a traceback.
    """
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            process.communicate(timeout=after)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        try:
            _, errors = process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"still alive {_PATIENCE_S:g} s after {number.name}") from None
    # A signal that comes before the program's own code runs meets Python's default: a traceback of its imports.
    if number == signal.SIGINT and "Traceback" in errors and "in run_command" in errors:
        raise AssertionError(f"a traceback after {number.name}:\n{errors[-3000:]}")
    return True


def digests(paths: Sequence[Path], root: Path) -> dict[str, str]:
    """Return the BLAKE2 digest of every file among ``paths`` and below them, by its path relative to ``root``."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {
        str(file.relative_to(root)): hashlib.blake2b(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }


def remove(paths: Sequence[Path]) -> None:
    """Delete files and directories that exist."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@dataclass
class Task:
    """A command that must leave the same files however often it was interrupted.

    Attributes:
        command: the command line.
        root: directory to which the paths of the results are relative.
        outputs: return the paths of the results.
        leftovers: return everything else that the command may leave; empty after it has finished.
        kept: return how much of the earlier work was used, from the standard error of the last start.
        check: raise AssertionError when an interruption left something wrong; called with the wanted digests.
        finished: whether the result has its name, so that the command would refuse to start again.
    """

    command: Sequence[str]
    root: Path
    outputs: Callable[[], list[Path]]
    leftovers: Callable[[], list[Path]]
    kept: Callable[[str], int]
    check: Callable[[dict[str, str]], None] = field(default=lambda wanted: None)
    finished: Callable[[], bool] = field(default=lambda: False)

    def undisturbed(self) -> tuple[float, dict[str, str]]:
        """Run once; returns seconds and digests of the results."""
        start = time.perf_counter()
        done = subprocess.run(self.command, capture_output=True, text=True)
        assert done.returncode == 0, f"the undisturbed run failed:\n{done.stderr[-3000:]}"
        return time.perf_counter() - start, digests(self.outputs(), self.root)

    def trial(self, moments: Sequence[float], signals: Sequence[signal.Signals], wanted: dict[str, str]) -> int:
        """Interrupt at each moment in turn, then let it finish; prints a line and returns the interruptions.

        Raises:
            AssertionError: the files differ from the wanted ones, or something is left behind.
        """
        remove(self.outputs())
        remove(self.leftovers())
        hits, errors = [], ""
        for moment, number in zip(moments, signals, strict=True):
            if interrupt(self.command, moment, number):
                hits.append(f"{number.name} at {moment:.2f} s")
            self.check(wanted)
            if self.finished():
                break
        if not self.finished():
            done = subprocess.run(self.command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            errors = done.stderr
        found = digests(self.outputs(), self.root)
        other = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        assert not other, f"other bytes after {hits}: {other}"
        left = [path.name for path in self.leftovers()]
        assert not left, f"left behind after {hits}: {left}"
        print(f"  {', '.join(hits) or 'was done'}: same bytes, {self.kept(errors)} parts were kept", flush=True)
        return len(hits)


def moments_of(generator: random.Random, seconds: float, count: int, peak: float = 0.5) -> list[float]:
    """Draw moments within a duration, most of them near the share ``peak`` of it."""
    return [seconds * generator.triangular(0, 1, peak) for _ in range(count)]


def campaign(tasks: dict[str, Task], kills: int, seed: int, peak: float = 0.5) -> Counter[str]:
    """Interrupt tasks in turn until there were ``kills`` interruptions; returns their number per task.

    Every second round of a task interrupts twice in a row.

    Raises:
        AssertionError: a task did not end as its undisturbed run.
    """
    wanted, seconds = {}, {}
    for name, task in tasks.items():
        seconds[name], wanted[name] = task.undisturbed()
        print(f"{name}: {seconds[name]:.2f} s undisturbed, {len(wanted[name])} files", flush=True)
    generator, hits, rounds = random.Random(seed), Counter[str](), 0
    while hits.total() < kills:
        name = list(tasks)[rounds % len(tasks)]
        count = 1 + rounds // len(tasks) % 2
        signals = [generator.choice(SIGNALS) for _ in range(count)]
        print(f"{hits.total():3} {name}", flush=True)
        moments = moments_of(generator, seconds[name], count, peak)
        hits[name] += tasks[name].trial(moments, signals, wanted[name])
        rounds += 1
    return hits
