"""Rust: rustc with crates that were compiled once."""

import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.languages import rust_source
from megatron_octo.evaluation.languages.base import Program, Toolchain
from megatron_octo.evaluation.languages.compiled import (
    NAME,
    OUTPUT,
    PROGRAM,
    SHARED,
    CompiledLanguage,
    Compiler,
    build_once,
)
from megatron_octo.evaluation.sandbox.limits import Mount

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row

_DEBIAN = "/usr/bin/rustc"
_REGISTRY = Path("/usr/share/cargo/registry")
_UNICODE = ("age", "bool", "case", "gencat", "perl", "script", "segment")
_FEATURES = tuple(f"unicode-{part}" for part in _UNICODE)
_FLAGS = ("-A", "warnings", "-C", "debuginfo=0", "-C", "linker=/usr/bin/gcc")


@dataclass(frozen=True)
class _Crate:
    """A crate to compile: where its source is, and how."""

    name: str
    folder: str  # of Debian's registry, as a pattern; a file of ours if it ends in .rs
    edition: str = "2018"
    features: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    package: str = ""


_CRATES = (
    _Crate("regex_syntax", "regex-syntax-0.6.*", features=("unicode", *_FEATURES), package="librust-regex-syntax-dev"),
    _Crate("regex", "regex-1.*", "2018", ("std", "unicode", *_FEATURES), ("regex_syntax",), "librust-regex-dev"),
    # In later editions "core" is ambiguous in it.
    _Crate("md5", "md5-0.7.*", edition="2015", features=("std",), package="librust-md5-dev"),
    _Crate("rand", "rand.rs", edition="2021"),
    _Crate("check", "check.rs", edition="2021"),
)
_OFFERED = ("regex", "md5", "rand")


class Rust(CompiledLanguage):
    """Rust of the 2021 edition, with the crates regex, md5 and a seeded rand."""

    name = "rust"
    ours = ("main.rs", "test.rs")
    run_environment = {"RUST_BACKTRACE": "0"}  # noqa: RUF012

    def __init__(self, cache: Path) -> None:
        """Take the folder for what is built once."""
        self._cache = cache

    def toolchain(self) -> Toolchain:
        """Find rustc and the sources of the crates, and compile them."""
        return self._built[0]

    def program(self, row: "Row", solution: str) -> Program:
        """Join a solution with the row's test."""
        sources = rust_source.assemble(row, solution)
        return Program(sources, digest_json(sources))

    def compiler(self, program: Program) -> Compiler:
        """Return rustc's command."""
        _, found = self._built
        if found is None:
            raise OctoError("no Rust compiler", where="rust", hint="; ".join(self.toolchain().missing))
        crates = [word for name in _OFFERED for word in ("--extern", f"{name}={SHARED}/lib{name}.rlib")]
        # The crate of assertions has a new name each time, which is put in when the files are written.
        crates += ["--extern", f"{NAME}={SHARED}/libcheck.rlib"]
        words = (found.inside, "--edition=2021", *_FLAGS, *_linker(), "--cfg", "test", "-L", SHARED, *crates)
        return Compiler(found.folder, (*words, "/w/main.rs", "-o", f"{OUTPUT}/{PROGRAM}"), {}, found.mounts)

    def tampering(self, program: Program) -> str | None:
        """Return a trick in the solution's text."""
        return rust_source.tampering(program.sources["solution.rs"])

    @functools.cached_property
    def _built(self) -> tuple[Toolchain, "_Found | None"]:
        rustc = find_rustc()
        missing = [f"apt: {crate.package}" for crate in _CRATES if _source(crate) is None]
        missing += [] if rustc else ["apt: rustc"]
        missing += [] if shutil.which("gcc") else ["apt: gcc"]
        if rustc is None or missing:
            return Toolchain(False, "", "", tuple(missing)), None
        version = _output(rustc, "-vV")
        texts = [_text(crate) for crate in _CRATES if crate.folder.endswith(".rs")]
        places = [str(_source(crate)) for crate in _CRATES if not crate.folder.endswith(".rs")]
        digest = digest_json([version, texts, places, _FLAGS, _linker(), rust_source.VERSION])
        folder = build_once(self._cache, "rust", digest, lambda aside: _build(rustc, aside))
        inside, mounts = _seen(rustc, self._cache, version)
        return Toolchain(True, version.splitlines()[0], digest), _Found(folder, inside, mounts)


@dataclass(frozen=True)
class _Found:
    """Crates, and rustc as the sandbox sees it."""

    folder: Path
    inside: str
    mounts: tuple[Mount, ...]


def find_rustc() -> str | None:
    """Return the compiler: ``RUSTC`` of the environment, the one on the path, or Debian's; the first that runs."""
    for place in (os.environ.get("RUSTC"), shutil.which("rustc"), _DEBIAN):
        if place and shutil.which(place) and subprocess.run([place, "-vV"], capture_output=True).returncode == 0:
            return place
    return None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _seen(rustc: str, cache: Path, version: str) -> tuple[str, tuple[Mount, ...]]:
    """Return the compiler's place inside the sandbox, and what must be mounted for it."""
    root = Path(_output(rustc, "--print", "sysroot"))
    if root.is_relative_to("/usr"):
        return str(root / "bin/rustc"), ()
    if os.getuid() == 0 and not _reachable(root):
        # Sandboxes of root run as users that cannot enter its home.
        target = next(line.split(": ")[1] for line in version.splitlines() if line.startswith("host: "))
        digest = digest_json([version, str(root)])
        root = build_once(cache, "rustc", digest, lambda aside: _copy_compiler(root, target, aside))
    return "/r/bin/rustc", (Mount(root, "/r"),)


def _reachable(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _copy_compiler(root: Path, target: str, folder: Path) -> None:
    parts = [root / "bin/rustc", *(root / "lib").glob("*.so*"), *(root / "lib/rustlib" / target / "lib").glob("*")]
    for path in parts:
        copy = folder / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
            continue
        try:
            if not path.stat().st_mode & 0o004:
                raise PermissionError
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)


def _linker() -> list[str]:
    return ["-C", "link-arg=-fuse-ld=mold"] if shutil.which("ld.mold", path="/usr/bin") else []


def _text(crate: _Crate) -> str:
    folder = resources.files("megatron_octo.evaluation.languages").joinpath("support/rust")
    return folder.joinpath(crate.folder).read_text(encoding="utf-8")


def _source(crate: _Crate) -> Path | None:
    """Return the root file of a crate; None if its package is not installed."""
    if crate.folder.endswith(".rs"):
        return Path(crate.folder)
    return max((path / "src/lib.rs" for path in _REGISTRY.glob(crate.folder)), default=None)


def _build(rustc: str, folder: Path) -> None:
    """Compile the crates to libraries in a folder."""
    for crate in _CRATES:
        source = _source(crate)
        assert source is not None
        if crate.folder.endswith(".rs"):
            source = folder / crate.folder
            source.write_text(_text(crate), encoding="utf-8")
        words = [
            rustc,
            "--crate-type=rlib",
            "--crate-name",
            crate.name,
            f"--edition={crate.edition}",
            "--cap-lints=allow",
        ]
        words += ["--cap-lints=allow", "-C", "debuginfo=0", "-C", "opt-level=1", "-L", str(folder), str(source)]
        words += [word for feature in crate.features for word in ("--cfg", f'feature="{feature}"')]
        words += [word for need in crate.needs for word in ("--extern", f"{need}={folder}/lib{need}.rlib")]
        done = subprocess.run([*words, "-o", f"{folder}/lib{crate.name}.rlib"], capture_output=True, text=True)
        if done.returncode:
            raise OctoError(f"the crate {crate.name} does not compile: {done.stderr.strip()[-500:]}", where=source)
