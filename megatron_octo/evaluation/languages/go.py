"""Go: compiler and linker called directly, with archives of the standard library that were made once."""

import functools
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.languages import go_source
from megatron_octo.evaluation.languages.base import Program, Toolchain
from megatron_octo.evaluation.languages.compiled import (
    OUTPUT,
    PROGRAM,
    SHARED,
    CompiledLanguage,
    Compiler,
    build_once,
)

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

_PLACES = ("/usr/bin/go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go")
_OWN = ("assert", "testing")  # packages of ours, in the order of compilation
_ENVIRONMENT = {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}
_SCRIPT = f"""set -e
cd /w
{SHARED}/compile -p solution -importcfg {SHARED}/solution.cfg -complete -pack -o /tmp/solution.a -c=1 solution.go
{SHARED}/compile -p main -importcfg {SHARED}/main.cfg -complete -pack -o /tmp/main.a -c=1 main.go
{SHARED}/link -s -w -importcfg {SHARED}/main.cfg -o {OUTPUT}/{PROGRAM} /tmp/main.a
"""


class Go(CompiledLanguage):
    """Go, of any version: the archives come from ``go list -export``."""

    name = "go"
    ours = ("main.go",)
    reserved_bytes = 1 << 30
    # One thread of the program at a time: less CPU, and the order of goroutines depends on less.
    run_environment = {"GOMAXPROCS": "1", "GODEBUG": "randautoseed=0", "GOTRACEBACK": "single"}  # noqa: RUF012

    def __init__(self, cache: Path) -> None:
        """Take the folder for what is built once."""
        self._cache = cache

    def toolchain(self) -> Toolchain:
        """Find Go, and make the archives of the packages that programs may import."""
        return self._built[0]

    def program(self, row: "Row", solution: str) -> Program:
        """Join a solution with the row's test."""
        sources = go_source.assemble(row, solution)
        return Program(sources, digest_json(sources))

    def compiler(self, program: Program) -> Compiler:
        """Return the three commands: the solution's package, the test's, the linker."""
        _, folder = self._built
        if folder is None:
            raise OctoError("no Go compiler", where="go", hint="; ".join(self.toolchain().missing))
        return Compiler(folder, ("/bin/sh", "-c", _SCRIPT), {"GOMAXPROCS": "2", "GOGC": "400"})

    def tampering(self, program: Program) -> str | None:
        """Return a trick in the solution's text."""
        return go_source.tampering(program.sources)

    @functools.cached_property
    def _built(self) -> tuple[Toolchain, Path | None]:
        go = find_go()
        if go is None:
            return Toolchain(False, "", "", ("apt: golang-go",)), None
        version = _output(go, "version")
        ours = {name: _support(name) for name in _OWN}
        digest = digest_json([version, ours, _SCRIPT, go_source.ALLOWED, go_source.VERSION, self.run_environment])
        folder = build_once(self._cache, "go", digest, lambda aside: _build(go, ours, aside))
        return Toolchain(True, version, digest), folder


def find_go() -> str | None:
    """Return the Go command: ``GO`` of the environment, the one on the path, or Debian's place."""
    candidates = [os.environ.get("GO"), shutil.which("go"), *_PLACES]
    return next((place for place in candidates if place and os.access(place, os.X_OK)), None)


def _support(package: str) -> str:
    folder = resources.files("megatron_octo.evaluation.languages").joinpath("support/go")
    return folder.joinpath(f"{package}.go").read_text(encoding="utf-8")


def _output(go: str, *words: str, cache: str = "off", folder: Path | None = None) -> str:
    variables = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": "/nonexistent", "GOCACHE": cache}
    command = [go, *words]
    done = subprocess.run(command, env={**variables, **_ENVIRONMENT}, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise OctoError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-500:]}", where=go)
    return done.stdout.strip()


def _build(go: str, ours: dict[str, str], folder: Path) -> None:
    """Fill a folder with tools, archives and the two lists of what may be imported.

    From Go 1.20 on no archives are delivered; ``go list -export`` compiles them, or names the delivered ones.
    """
    tools = Path(_output(go, "env", "GOTOOLDIR"))
    for name in ("compile", "link"):
        shutil.copyfile(tools / name, folder / name)
        (folder / name).chmod(0o755)
    work = folder / "work"
    work.mkdir()
    cache = str(work.resolve() / "cache")
    std = set(_output(go, "list", "std", cache=cache, folder=work).split())
    wanted = [path for path in go_source.ALLOWED if path in std]
    pattern = "{{if .Export}}{{.ImportPath}}={{.Export}}{{end}}"
    listed = _output(go, "list", "-export", "-deps", "-f", pattern, *wanted, cache=cache, folder=work)
    found = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    lines = []
    for number, (path, archive) in enumerate(sorted(found.items())):
        shutil.copyfile(archive, folder / f"{number}.a")
        lines.append(f"packagefile {path}={SHARED}/{number}.a")
    (folder / "solution.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")
    local = "\n".join(lines).replace(f"={SHARED}/", f"={folder}/") + "\n"
    (work / "local.cfg").write_text(local, encoding="utf-8")
    for package in _OWN:
        source = work / f"{package}.go"
        source.write_text(ours[package], encoding="utf-8")
        config = ["-importcfg", str(work / "local.cfg"), "-complete", "-pack", "-o", str(folder / f"own_{package}.a")]
        subprocess.run([str(folder / "compile"), "-p", package, *config, str(source)], check=True, capture_output=True)
    lines += [f"packagefile {package}={SHARED}/own_{package}.a" for package in _OWN]
    lines.append("packagefile solution=/tmp/solution.a")
    (folder / "main.cfg").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.rmtree(work)
