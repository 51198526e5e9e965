"""C++: g++ with a precompiled header and a fast linker."""

import functools
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.languages import cpp_source
from megatron_octo.evaluation.languages.base import Program, Toolchain
from megatron_octo.evaluation.languages.compiled import (
    OUTPUT,
    PROGRAM,
    SHARED,
    CompiledLanguage,
    Compiler,
    build_once,
)
from megatron_octo.evaluation.sandbox.limits import Outcome

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

_GXX = "/usr/bin/g++"
_FLAGS = ("-std=gnu++17", "-O0", "-w", "-pipe", "-fno-diagnostics-color", "-fmax-errors=5")
_HEADERS = {"boost/any.hpp": "apt: libboost-dev", "openssl/md5.h": "apt: libssl-dev"}
_HEADER = "head.hpp"
# Functions of the C library by which comparisons and ends work: none of them may be the program's own.
_GUARDED = (
    *("memcmp", "bcmp", "strcmp", "strncmp", "memchr", "strlen", "memcpy", "memmove", "memset", "wmemcmp"),
    *("write", "exit", "_exit", "_Exit", "abort", "atexit", "malloc", "free"),
    *("__assert_fail", "__cxa_throw", "__cxa_atexit", "__libc_start_main"),
)
_DEFINED = re.compile(rb"(\S+): definition of (\S+)")


class Cpp(CompiledLanguage):
    """C++17. Its program: the solution and the test in two files, so that nothing left open reaches the test."""

    name = "cpp"
    ours = ("main.cpp", "test.cpp")

    def __init__(self, cache: Path) -> None:
        """Take the folder for what is built once."""
        self._cache = cache

    def toolchain(self) -> Toolchain:
        """Find g++ and its headers, and compile the header that all programs include."""
        return self._built[0]

    def program(self, row: "Row", solution: str) -> Program:
        """Join a solution with the row's test."""
        sources = cpp_source.assemble(row, solution)
        return Program(sources, digest_json(sources))

    def compiler(self, program: Program) -> Compiler:
        """Return g++'s command; OpenSSL is linked only where the solution names it."""
        _, folder = self._built
        if folder is None:
            raise OctoError("no C++ compiler", where="cpp", hint="; ".join(self.toolchain().missing))
        link = [f"-Wl,-y,{name}" for name in _GUARDED]
        if re.search(r"\bmd5\b|\bMD5", program.sources["solution.cpp"]):
            link.append("-lcrypto")
        argv = [_gxx(), *_FLAGS, "-include", f"{SHARED}/{_HEADER}", *_linker(), "/w/main.cpp", *link]
        return Compiler(folder, (*argv, "-o", f"{OUTPUT}/{PROGRAM}"), {})

    def tampering(self, program: Program) -> str | None:
        """Return a trick in the solution's text."""
        return cpp_source.tampering(program.sources["solution.cpp"])

    def tampering_in_build(self, program: Program, outcome: Outcome) -> str | None:
        """Return the function of the C library that the program has replaced, from the linker's trace."""
        for place, name in _DEFINED.findall(outcome.stdout + b"\n" + outcome.stderr):
            if not re.search(rb"/lib(64)?/|/usr/", place):
                return f"its own {name.decode()}() replaces that of the C library"
        return None

    @functools.cached_property
    def _built(self) -> tuple[Toolchain, Path | None]:
        gxx = shutil.which(_gxx())
        missing = [] if gxx else ["apt: g++"]
        if gxx:
            missing += [package for header, package in _HEADERS.items() if not _has_header(gxx, header)]
        if not gxx or missing:
            return Toolchain(False, "", "", tuple(missing)), None
        version = subprocess.run([gxx, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        text = resources.files("megatron_octo.evaluation.languages").joinpath("support/cpp/head.hpp").read_text()
        digest = digest_json([version, _FLAGS, text, _linker(), _GUARDED, cpp_source.VERSION])

        def build(folder: Path) -> None:
            header = folder / _HEADER
            header.write_text(text)
            command = [gxx, *_FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"]
            subprocess.run(command, check=True, capture_output=True)

        return Toolchain(True, version, digest), build_once(self._cache, "cpp", digest, build)


def _gxx() -> str:
    return _GXX if Path(_GXX).exists() else "g++"


def _linker() -> list[str]:
    return ["-fuse-ld=mold"] if shutil.which("ld.mold", path="/usr/bin") else []


def _has_header(gxx: str, header: str) -> bool:
    words = [gxx, "-x", "c++", "-fsyntax-only", "-include", header, "/dev/null"]
    return subprocess.run(words, capture_output=True).returncode == 0
