"""Java: one machine compiles all programs, a fresh one runs each."""

import functools
import re
import secrets
import shutil
import subprocess
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.files import digest_bytes, digest_json
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.languages.compiled import NAME, NONCE, build_once, run_verdict
from megatron_octo.evaluation.languages.java_compiler import CompilerGoneError, JavaCompiler
from megatron_octo.evaluation.records import Kind, Verdict
from megatron_octo.evaluation.sandbox.limits import Limits, Mount

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.sandbox.box import Sandbox

_OPTIONS = (
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-XX:-UsePerfData"),
    *("-XX:ReservedCodeCacheSize=64m", "-XX:CompressedClassSpaceSize=128m"),
)
# A class of ours sends the nonce when main has ended; its name differs from run to run.
_END = f"""
class {NAME} {{
    static void end() {{
        try (java.io.FileOutputStream output = new java.io.FileOutputStream("/dev/fd/7")) {{
            output.write("{NONCE}".getBytes());
        }} catch (java.io.IOException error) {{
            throw new RuntimeException(error);
        }}
    }}
}}
"""
_EMPTY_MAIN = re.compile(r"public class Main \{\s*\}")
_WRONG = re.compile(r'^Exception in thread "main" java\.lang\.AssertionError', re.MULTILINE)
_NO_MEMORY = re.compile(r"java\.lang\.OutOfMemoryError|insufficient memory for the Java Runtime")
# Names that a test takes from the libraries: a class of the program with such a name would be taken instead.
_PACKAGES = ("java.lang", "java.util")


class Java(Language):
    """Java programs, by a JDK."""

    name = "java"

    def __init__(self, cache: Path) -> None:
        """Take the folder for the compiled compiler."""
        self._cache = cache

    @functools.cached_property
    def _java(self) -> str | None:
        return shutil.which("java", path="/usr/bin:/usr/local/bin") if shutil.which("javac") else None

    @functools.cached_property
    def _mounts(self) -> list[Mount]:
        # Debian's JDK keeps its configuration there.
        return [Mount(path, str(path)) for path in sorted(Path("/etc").glob("java-*-openjdk"))]

    @functools.cached_property
    def _library_names(self) -> frozenset[str]:
        """Names of the classes of java.lang and java.util."""
        found = subprocess.run(["jimage", "list", self._modules()], capture_output=True, text=True, check=False)
        names, package = set(), ""
        for line in found.stdout.splitlines():
            if line.startswith("    Package:"):
                package = line.partition(":")[2].strip()
            elif package in _PACKAGES:
                names.add(line.strip().removesuffix(".class"))
        return frozenset(names) or _COMMON_NAMES

    def _modules(self) -> str:
        return str(Path(self._java or "").resolve().parents[1] / "lib" / "modules")

    @functools.cached_property
    def _compiler(self) -> JavaCompiler:
        source = resources.files("megatron_octo.evaluation.languages").joinpath("support", "java", "OctoCompiler.java")
        text = source.read_bytes()

        def build(folder: Path) -> None:
            (folder / "OctoCompiler.java").write_bytes(text)
            command = ["javac", "-nowarn", "-d", str(folder), str(folder / "OctoCompiler.java")]
            subprocess.run(command, check=True, capture_output=True)

        digest = digest_json([digest_bytes(text), self._version])
        classes = build_once(self._cache, "java", digest, build)
        options = ["-XX:TieredStopAtLevel=1", *_OPTIONS[1:4], "-Xmx512m", "-XX:+ExitOnOutOfMemoryError"]
        return JavaCompiler(self._java or "java", classes, options, self._mounts)

    @functools.cached_property
    def _version(self) -> str:
        found = subprocess.run([self._java or "java", "-version"], capture_output=True, text=True, check=True)
        return found.stderr.splitlines()[0].strip()

    @functools.cache  # noqa: B019 - one object per evaluation
    def toolchain(self) -> Toolchain:
        """Find the JDK, and compile the compiler's program."""
        if self._java is None:
            return Toolchain(False, "", "", ("apt: default-jdk-headless",))
        _ = self._compiler
        return Toolchain(True, self._version, digest_json([self._version, _OPTIONS, _END]))

    def program(self, row: "Row", solution: str) -> Program:
        """Join solution and test; the end of main reports it."""
        solution = _EMPTY_MAIN.sub("", solution)
        place = row.test.rstrip()[:-1].rstrip().rfind("}")
        test = f"{row.test[:place]}\n{NAME}.end();\n{row.test[place:]}"
        sources = {"solution": solution, "test": f"{test}\n{_END}"}
        return Program(sources, digest_json({"language": self.name, **sources}))

    def judge(self, program: Program, box: "Sandbox", limits: Limits) -> Verdict:
        """Compile and run a program."""
        name, nonce = secrets.token_hex(8), secrets.token_hex(8)
        test = program.sources["test"].replace(NAME, f"octo_{name}").replace(NONCE, nonce)
        source = f"{program.sources['solution']}\n\n{test}"
        try:
            classes, messages, spent = self._compiler.compile(source, box.level)
        except CompilerGoneError as error:
            return Verdict(Kind.INFRASTRUCTURE, 1, f"the compiler is gone: {error}")
        if classes is None:
            return Verdict(Kind.COMPILE_ERROR, 1, _shown(messages), compile_cpu_s=spent)
        if shadows := sorted(set(classes) & self._library_names):
            return Verdict(Kind.TAMPERED, 1, f"own class {shadows[0]} in place of the library's", compile_cpu_s=spent)
        ran = box.run(
            [self._java or "java", *_OPTIONS, "-Xmx256m", "-cp", "/w", "Main"],
            files={f"{found}.class": content for found, content in classes.items()},
            mounts=self._mounts,
            limits=replace(limits, address_bytes=0),
        )
        verdict = run_verdict(ran, nonce)
        if verdict.kind is Kind.EXCEPTION and _NO_MEMORY.search(ran.stderr.decode(errors="replace")):
            verdict = replace(verdict, kind=Kind.MEMORY)
        elif verdict.kind is Kind.EXCEPTION and _WRONG.search(ran.stderr.decode(errors="replace")):
            verdict = replace(verdict, kind=Kind.WRONG)
        return replace(verdict, compile_cpu_s=spent, run_cpu_s=ran.cpu_s, wall_s=ran.wall_s)

    def close(self) -> None:
        """End the compiler."""
        if "_compiler" in self.__dict__:
            self._compiler.close()


def _shown(messages: str) -> str:
    return messages.strip()[:2000]


_COMMON_NAMES = frozenset(
    (
        *("Arrays", "List", "ArrayList", "LinkedList", "Map", "HashMap", "TreeMap", "Set", "HashSet", "Objects"),
        *("Optional", "Collections", "Collection", "Iterator", "Random", "Scanner", "AssertionError", "Math", "Object"),
        *("String", "Boolean", "Integer", "Double", "Float", "Long", "Character", "Number", "System", "Thread"),
        *("Runtime", "Exception", "RuntimeException", "Error", "Throwable", "StringBuilder", "Iterable", "Comparable"),
    )
)
