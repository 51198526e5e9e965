"""What compiled languages share: compile in one sandbox, run in another, and tell from both how a program ended."""

import contextlib
import functools
import os
import re
import secrets
import shutil
import signal
import stat
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.files import atomic_directory
from megatron_octo.common.leases import flock
from megatron_octo.common.terminal import printable
from megatron_octo.evaluation.languages.base import Language, Program
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.bubblewrap import UNPRIVILEGED
from megatron_octo.evaluation.sandbox.folders import make_folder
from megatron_octo.evaluation.sandbox.limits import Limits, Mount, Outcome

if TYPE_CHECKING:
    from megatron_octo.evaluation.sandbox.box import Sandbox

COMPILATION = Limits(cpu_s=20, memory_bytes=2 << 30, processes=128, tmp_bytes=256 << 20)
NAME, NONCE = "@name@", "@nonce@"  # in texts of ours: a name and a value that differ from run to run
WRONG = b"wrong"  # what our assertions send before they end the program
SHARED, OUTPUT, PROGRAM = "/k", "/o", "program"  # places inside the sandbox
_LIMITS = {"cpu": Kind.CPU_LIMIT, "wall": Kind.WALL_LIMIT, "memory": Kind.MEMORY, "output": Kind.OUTPUT_LIMIT}
_NO_MEMORY = re.compile(
    rb"out of memory|bad_alloc|virtual memory exhausted|[Cc]annot allocate memory|memory allocation of \d+ bytes failed"
)
_STACK = re.compile(rb"stack overflow|overflowed its stack|runtime\.(?:newstack|copystack)\b")  # not the memory's limit
_NO_PROCESS = re.compile(rb"failed to spawn|Resource temporarily unavailable|cannot fork|vfork|pthread_create failed")
_REBUILDS = 2
_NO_TIME = re.compile(rb"CPU time limit exceeded")  # of one of the compiler's processes
_KILLED = re.compile(rb"(Killed|Terminated) signal terminated program|signal: 9, SIGKILL|collect2: .*signal 9")
_DETAIL = 2000  # characters


@dataclass(frozen=True)
class Compiler:
    """How a language compiles.

    Attributes:
        shared: folder of what is built once, seen as ``/k``.
        argv: command that compiles the files in ``/w`` to ``/o/program``; NAME in it is replaced.
        environment: variables of the command.
        mounts: further folders of the host that the command reads.
    """

    shared: Path
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...] = ()


class CompiledLanguage(Language):
    """A language whose programs are compiled, then run without their source."""

    #: Files of a program that are ours: a name and a nonce are put into them.
    ours: tuple[str, ...]
    #: Address space that the language's runtime reserves without using it.
    reserved_bytes = 0
    #: Variables of a program's run.
    run_environment: Mapping[str, str] = {}

    @abstractmethod
    def compiler(self, program: Program) -> Compiler:
        """Return how a program is compiled."""

    def tampering(self, program: Program) -> str | None:
        """Return the trick that a program uses against its test, seen from its text; None if there is none."""
        return None

    def tampering_in_build(self, program: Program, outcome: Outcome) -> str | None:
        """Return the trick that shows in what the compiler and linker print; None if there is none."""
        return None

    def judge(self, program: Program, box: "Sandbox", limits: Limits) -> Verdict:
        """Compile and run a program; both have limits of their own."""
        if trick := self.tampering(program):
            return Verdict(Kind.TAMPERED, 1, trick)
        name, nonce = f"octo_{secrets.token_hex(8)}", secrets.token_hex(8)
        files = {}
        for file, text in program.sources.items():
            if file in self.ours:
                text = text.replace(NAME, name).replace(NONCE, nonce)
            files[file] = text.encode(errors="replace")
        compiler = self.compiler(program)
        with output_folder(box.slot) as folder:
            mounts = [Mount(compiler.shared, SHARED), Mount(folder, OUTPUT, writable=True), *compiler.mounts]
            build = functools.partial(
                box.run,
                [word.replace(NAME, name) for word in compiler.argv],
                files=files,
                mounts=mounts,
                limits=COMPILATION,
                environment=compiler.environment,
                channel=False,
            )
            built = build_patiently(build)
            verdict = compile_verdict(built, folder / PROGRAM)
            if verdict is None and (trick := self.tampering_in_build(program, built)):
                verdict = Verdict(Kind.TAMPERED, 1, trick)
            if verdict is None:
                ran = box.run(
                    [f"{OUTPUT}/{PROGRAM}"],
                    mounts=[Mount(folder, OUTPUT)],
                    limits=self._run_limits(limits),
                    environment=self.run_environment,
                )
                verdict = replace(run_verdict(ran, nonce), run_cpu_s=ran.cpu_s, wall_s=ran.wall_s)
        return replace(verdict, compile_cpu_s=built.cpu_s, wall_s=verdict.wall_s + built.wall_s)

    def _run_limits(self, limits: Limits) -> Limits:
        if not self.reserved_bytes or limits.address_bytes is not None:
            return limits
        return replace(limits, address_bytes=limits.memory_bytes + self.reserved_bytes)


@contextlib.contextmanager
def output_folder(slot: int) -> Iterator[Path]:
    """Make a folder that the sandbox of a slot may write to, and remove it with all in it."""
    folder = make_folder("compile")
    try:
        if os.getuid() == 0:
            os.chown(folder, UNPRIVILEGED + slot, UNPRIVILEGED + slot)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_once(cache: Path, name: str, digest: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``cache/name-digest``, filled by ``build`` if it is not there yet; complete or absent.

    Everything in it is readable for all: sandboxes run as users of their own.
    """
    folder = cache / f"{name}-{digest.rpartition(':')[2][:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    handle = flock(cache / f".{name}.lock", None)
    try:
        if not folder.is_dir():
            with atomic_directory(folder) as aside:
                build(aside)
                for path in (aside, *aside.rglob("*")):
                    _let_all_read(path)
    finally:
        os.close(handle)
    return folder


def _let_all_read(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    wanted = 0o555 if path.is_dir() or mode & 0o100 else 0o444
    if mode & wanted != wanted:  # what is linked from elsewhere is readable, and stays as it is
        path.chmod(mode | wanted)


def build_patiently(build: Callable[[], Outcome], pause: float = 0.5) -> Outcome:
    """Run a compiler; again if it could not start a thread or a process of its own, as on a crowded machine.

    The last outcome decides, whatever it says: a program that prints the same words gains another compilation only.
    """
    built = build()
    for _ in range(_REBUILDS):
        if not built.exit_code or not _NO_PROCESS.search(built.stderr or built.stdout):
            break
        time.sleep(pause)
        built = build()
    return built


def compile_verdict(outcome: Outcome, program: Path) -> Verdict | None:
    """Return the verdict on a compilation that gave no program; None if it did."""
    if outcome.trouble:
        return Verdict(Kind.INFRASTRUCTURE, 1, _clean(f"the compiler cannot start: {outcome.trouble}"))
    text = outcome.stderr or outcome.stdout
    limit = outcome.limit
    if outcome.exit_code == 128 + signal.SIGXCPU or (outcome.exit_code and _NO_TIME.search(text)):
        limit = limit or "cpu"
    if limit in ("cpu", "wall", "memory"):
        return Verdict(_LIMITS[limit], 1, f"limit while compiling: {limit}")
    if outcome.exit_code == 0 and _is_program(program):
        return None
    if _NO_MEMORY.search(text):
        return Verdict(Kind.MEMORY, 1, _clean("while compiling: " + text.decode(errors="replace")))
    killed = outcome.signal in (signal.SIGKILL, signal.SIGTERM) or _KILLED.search(text)
    if outcome.exit_code == 0 or killed:
        how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
        return Verdict(Kind.INFRASTRUCTURE, 1, _clean(f"the compiler was stopped ({how}), not by a limit"))
    return Verdict(Kind.COMPILE_ERROR, 1, _clean(text.decode(errors="replace")))


def run_verdict(outcome: Outcome, nonce: str) -> Verdict:
    """Return the verdict on the run of a program whose test sends ``nonce`` at its end."""
    words = outcome.stderr.decode(errors="replace")
    if outcome.trouble:
        kind, detail = Kind.INFRASTRUCTURE, f"the program cannot start: {outcome.trouble}"
    elif outcome.limit:
        kind, detail = _LIMITS[outcome.limit], f"limit: {outcome.limit}"
    elif outcome.channel == nonce.encode() and outcome.exit_code == 0:
        kind, detail = Kind.PASSED, ""
    elif outcome.channel == WRONG:
        kind, detail = Kind.WRONG, _ends(words)
    elif outcome.channel not in (b"", nonce.encode()):
        kind, detail = Kind.TAMPERED, "something else than the test's end was sent to the harness"
    elif outcome.exit_code == 0:
        kind, detail = Kind.TAMPERED, "exit code 0 before the end of the test"
    elif _NO_MEMORY.search(outcome.stderr) and not _STACK.search(outcome.stderr):
        kind, detail = Kind.MEMORY, _ends(words)
    else:
        kind, detail = Kind.EXCEPTION, f"{_how(outcome)}: {_ends(words)}".strip(": ")
    return Verdict(kind, 1, _clean(detail))


def _is_program(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _how(outcome: Outcome) -> str:
    if outcome.signal is None:
        return f"exit code {outcome.exit_code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(outcome.signal).name
    return f"signal {outcome.signal}"


def _ends(words: str) -> str:
    """Return the beginning and the end of what a program printed."""
    words = words.strip()
    return words if len(words) < 1800 else f"{words[:900]}\n...\n{words[-850:]}"


def _clean(words: str) -> str:
    return printable(words.strip(), keep="\n\t")[:_DETAIL]
