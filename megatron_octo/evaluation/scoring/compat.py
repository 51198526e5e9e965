"""Scoring as the original harness does it, with its faults, except that programs run in the sandbox.

The texts of programs come from ``benchmark/compat_programs.py``; here they are executed by the original's rules: exit
codes, or empty output, decide, so that a program which ends early with code 0 counts as passed, and one in JavaScript
that prints counts as failed. All verdicts are of level 1. What differs from the original: limits are in CPU seconds
(its time-outs), nothing of a program survives it, Rust's crate ``rand`` is the seeded one, Java is compiled once
instead of up to five times, and Python programs import numpy only where it is installed.
"""

import functools
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.files import digest_json
from megatron_octo.common.terminal import printable
from megatron_octo.evaluation.benchmark.compat_programs import programs
from megatron_octo.evaluation.languages import language
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.languages.compiled import (
    COMPILATION,
    OUTPUT,
    PROGRAM,
    CompiledLanguage,
    compile_verdict,
    output_folder,
)
from megatron_octo.evaluation.languages.compiled import NAME as HIDDEN
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.bubblewrap import UNPRIVILEGED
from megatron_octo.evaluation.sandbox.limits import Limits, Mount, Outcome

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.sandbox.box import Sandbox

SECONDS = {"python": 10.0, "js": 10.0, "java": 10.0, "go": 20.0, "cpp": 60.0, "rust": 300.0}  # the original's
_FORMAT = 1
_LIMITS = {"cpu": Kind.CPU_LIMIT, "wall": Kind.WALL_LIMIT, "memory": Kind.MEMORY, "output": Kind.OUTPUT_LIMIT}
_FILES = {"js": "test.js", "java": "Main.java", "go": "main_test.go", "cpp": "test.cpp", "rust": "main.rs"}
_NUMPY = ("import numpy", "import numpy as np")
_MD5 = 'const c = require("crypto"); module.exports = (t) => c.createHash("md5").update(t).digest("hex");\n'
_GO = {
    **{"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOPATH": "/usr/share/gocode", "GOCACHE": "/c"},
    **{"CGO_ENABLED": "0", "GOMAXPROCS": "2"},
}
_TESTIFY = Path("/usr/share/gocode/src/github.com/stretchr/testify")


def compat_language(name: str, cache: Path) -> "CompatLanguage":
    """Return a language that scores as the original; arguments as :func:`language`'s."""
    return CompatLanguage(name, cache)


def compat_program(language_name: str, text: str) -> Program:
    """Return the program of a whole text."""
    if language_name == "python" and not _has_numpy():
        text = "\n".join(line for line in text.split("\n") if line not in _NUMPY)
    return Program({"program": text}, digest_json(["compat", _FORMAT, language_name, text]))


def compat_texts(row: "Row", solutions: Sequence[str]) -> list[Program]:
    """Return the programs of all answers to a problem, in their order, on which Go's depend."""
    return [compat_program(row.language, text) for text in programs(row, solutions)]


@functools.cache
def _has_numpy() -> bool:
    return subprocess.run(["/usr/bin/python3", "-c", "import numpy"], capture_output=True).returncode == 0


@dataclass(frozen=True)
class _Built:
    """A program that is compiled, or the verdict of a compilation that failed."""

    verdict: Verdict | None
    cpu_s: float
    wall_s: float


class CompatLanguage(Language):
    """One language by the original's rules, with the toolchain that default scoring uses."""

    def __init__(self, name: str, cache: Path) -> None:
        """Take the name, and the folder for what is built once."""
        self.name, self._cache, self._own = name, cache, language(name, cache)

    @functools.cache  # noqa: B019 - one object per evaluation
    def toolchain(self) -> Toolchain:
        """Find the toolchain."""
        found = self._own.toolchain()
        missing = list(found.missing)
        if self.name == "go" and not _TESTIFY.is_dir():
            missing.append("apt: golang-github-stretchr-testify-dev")
        if self.name == "cpp" and not Path("/usr/include/openssl/md5.h").exists():
            missing.append("apt: libssl-dev")
        extra = _has_numpy() if self.name == "python" else None
        digest = digest_json(["compat", _FORMAT, found.digest, SECONDS[self.name], extra])
        return Toolchain(found.found and not missing, found.version, digest, tuple(missing))

    def program(self, row: "Row", solution: str) -> Program:
        """Assemble a program as the only answer to its problem."""
        return compat_texts(row, [solution])[0]

    def judge(self, program: Program, box: "Sandbox", limits: Limits) -> Verdict:
        """Compile and run a program; its limit is the original's time-out, in CPU seconds."""
        text = program.sources["program"].encode(errors="replace")
        own = replace(limits, cpu_s=SECONDS[self.name], wall_s=None)
        if self.name == "python":
            return self._python(text, box, own)
        if self.name == "js":
            return self._javascript(text, box, own)
        with output_folder(box.slot) as folder:
            built = self._compile(text, box, folder)
            if built.verdict is not None:
                return replace(built.verdict, compile_cpu_s=built.cpu_s, wall_s=built.wall_s)
            ran = box.run(
                ["/usr/bin/java", "-XX:+UseSerialGC", "-Xmx256m", "-cp", OUTPUT, "Main"]
                if self.name == "java"
                else [f"{OUTPUT}/{PROGRAM}", *(["-test.timeout=20s"] if self.name == "go" else [])],
                mounts=[Mount(folder, OUTPUT), *_java_mounts()],
                limits=replace(own, address_bytes=0) if self.name == "java" else own,
                channel=False,
            )
        verdict = by_exit_code(ran, self.name)
        return replace(verdict, compile_cpu_s=built.cpu_s, wall_s=built.wall_s + ran.wall_s)

    def close(self) -> None:
        """End what the language keeps."""
        self._own.close()

    def _python(self, text: bytes, box: "Sandbox", limits: Limits) -> Verdict:
        folder = resources.files("megatron_octo.evaluation.languages").joinpath("support", "python")
        files = {"program.txt": text, "runner.py": folder.joinpath("compat_runner.py").read_bytes()}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        ran = box.run(["/usr/bin/python3", "-B", "/w/runner.py"], files=files, limits=limits, environment=threads)
        found = ended(ran)
        if found is not None:
            return found
        words = ran.channel.decode(errors="replace")
        if words == "passed":
            return _verdict(Kind.PASSED, "", ran)
        if not words:
            return _verdict(Kind.EXCEPTION, "ended without a result, which the original calls a time-out", ran)
        kind = Kind.WRONG if words.startswith("failed: AssertionError") else Kind.EXCEPTION
        kind = Kind.MEMORY if words.startswith("failed: MemoryError") else kind
        return _verdict(kind, words, ran)

    def _javascript(self, text: bytes, box: "Sandbox", limits: Limits) -> Verdict:
        node = shutil.which("node", path="/usr/bin:/usr/local/bin") or "/usr/bin/nodejs"
        ran = box.run(
            [node, "--max-old-space-size=512", "/w/test.js"],
            files={"test.js": text, "js-md5.js": _MD5.encode()},
            limits=replace(limits, address_bytes=0),
            environment={"NODE_PATH": "/w"},
            channel=False,
        )
        found = ended(ran)
        if found is not None:
            return found
        if not ran.stdout and not ran.stderr:  # whatever the exit code
            return _verdict(Kind.PASSED, "", ran)
        words = (ran.stderr or ran.stdout).decode(errors="replace")
        return _verdict(Kind.WRONG if "Assertion failed" in words else Kind.EXCEPTION, words, ran)

    def _compile(self, text: bytes, box: "Sandbox", folder: Path) -> _Built:
        mounts, environment = [Mount(folder, OUTPUT, writable=True)], dict[str, str]()
        limits = COMPILATION
        if self.name == "cpp":
            argv = ["/usr/bin/g++", "-std=c++11", "/w/test.cpp", "-o", f"{OUTPUT}/{PROGRAM}", "-lcrypto", "-lssl"]
        elif self.name == "java":
            argv = ["/usr/bin/javac", "-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-J-Xmx512m", "-proc:none"]
            argv += ["-d", OUTPUT, "/w/Main.java"]
            mounts += _java_mounts()
            limits = replace(limits, address_bytes=0)
        elif self.name == "go":
            # The tests' own checks (go vet) are part of the original's verdicts.
            argv = ["/usr/bin/go", "test", "-c", "-o", f"{OUTPUT}/{PROGRAM}", "/w/main_test.go"]
            mounts.append(Mount(self._go_cache(box.slot), "/c", writable=True))
            environment = _GO
            limits = replace(limits, address_bytes=0)
        else:
            assert isinstance(self._own, CompiledLanguage)
            made = self._own.compiler(Program({}, ""))
            words = list(made.argv)
            place = next(number for number, word in enumerate(words) if HIDDEN in word)  # our crate of assertions
            del words[place - 1 : place + 1]
            place = words.index("--cfg")
            argv = [*words[:place], "--test", *words[place + 2 :]]
            mounts += [Mount(made.shared, "/k"), *made.mounts]
        ran = box.run(
            argv,
            files={_FILES[self.name]: text},
            mounts=mounts,
            limits=limits,
            environment=environment,
            channel=False,
        )
        target = folder / ("Main.class" if self.name == "java" else PROGRAM)
        return _Built(compile_verdict(ran, target), ran.cpu_s, ran.wall_s)

    def _go_cache(self, slot: int) -> Path:
        """Return the folder of Go's own cache, one per slot: compilation writes it, programs do not see it."""
        folder = self._cache / f"go-compat-{os.getuid()}-{slot}"
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            os.chown(folder, UNPRIVILEGED + slot, UNPRIVILEGED + slot)
        return folder


def ended(outcome: Outcome) -> Verdict | None:
    """Return the verdict on a run that a limit or the sandbox ended; None for others."""
    if outcome.trouble:
        return _verdict(Kind.INFRASTRUCTURE, f"cannot start: {outcome.trouble}", outcome)
    if outcome.limit:
        return _verdict(_LIMITS[outcome.limit], f"limit: {outcome.limit}", outcome)
    return None


def by_exit_code(outcome: Outcome, name: str) -> Verdict:
    """Return the verdict by the exit code alone."""
    found = ended(outcome)
    if found is not None:
        return found
    if outcome.exit_code == 0:
        return _verdict(Kind.PASSED, "", outcome)
    words = f"{outcome.stdout.decode(errors='replace')}\n{outcome.stderr.decode(errors='replace')}"
    wrong = {"java": "AssertionError", "cpp": "Assertion", "go": "--- FAIL", "rust": "assertion"}[name]
    how = f"signal {outcome.signal}" if outcome.signal else f"exit code {outcome.exit_code}"
    return _verdict(Kind.WRONG if wrong in words else Kind.EXCEPTION, f"{how}: {words}", outcome)


def _java_mounts() -> list[Mount]:
    return [Mount(path, str(path)) for path in sorted(Path("/etc").glob("java-*-openjdk"))]


def _verdict(kind: Kind, words: str, outcome: Outcome) -> Verdict:
    detail = printable(words.strip(), keep="\n")[:2000]
    return Verdict(kind, 1, detail, run_cpu_s=outcome.cpu_s, wall_s=outcome.wall_s)
