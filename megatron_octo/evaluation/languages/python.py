"""Python: solution and test in two processes."""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.languages import two_processes
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.records import Verdict
from megatron_octo.evaluation.sandbox.limits import Limits, Mount

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.sandbox.box import Sandbox

# The original imports all of these in front of every program (and numpy, which costs a third of a second): a module is
# imported here if the program names it.
_MODULES = (
    *("math", "re", "sys", "copy", "datetime", "itertools", "collections", "heapq", "statistics", "functools"),
    *("hashlib", "string", "numpy"),
)
_COLLECTIONS = ("Counter", "defaultdict", "deque", "OrderedDict", "namedtuple", "ChainMap", "UserDict", "UserList")
_TYPING = re.compile(
    r"\b(List|Dict|Tuple|Optional|Any|Union|Set|FrozenSet|Callable|Iterable|Iterator|Sequence|Mapping|Generator|"
    r"DefaultDict|Deque|Literal|NamedTuple|TypeVar|Generic|cast)\b"
)
_DISTRIBUTION = "/usr/lib/python3/dist-packages"
_DEFINITION = re.compile(r"^def (\w+)\(", re.MULTILINE)


def imports_of(source: str) -> str:
    """Return the imports that a program relies on without making them."""
    lines = [f"import {name}" for name in _MODULES if re.search(rf"\b{name}\b", source)]
    if re.search(r"\bnp\b", source):
        lines.append("import numpy as np")
    if _TYPING.search(source):
        lines.append("from typing import *")
    if re.search(rf"\b({'|'.join(_COLLECTIONS)})\b", source):
        lines.append("from collections import *")
    # A future statement has to come first, and needs none of these before it.
    return "; ".join(lines) if lines and "from __future__" not in source else ""


class Python(Language):
    """Python programs, by an interpreter that the sandbox's user can run."""

    name = "python"

    def __init__(self, cache: Path) -> None:
        """Take the folder for what is built once; Python builds nothing."""
        self._testers = two_processes.Testers(self._side("tester.py", {}))

    @functools.cached_property
    def _interpreter(self) -> str | None:
        own = Path(os.path.realpath(sys.executable))  # where it may not be looked at, it is left out below
        for path in (own, Path("/usr/bin/python3")):
            if os.access(path, os.X_OK) and (os.getuid() != 0 or str(path).startswith("/usr/")):
                return str(path)
        return None

    @functools.cached_property
    def _mounts(self) -> tuple[Mount, ...]:
        """The interpreter's own tree, where it is not under /usr."""
        if self._interpreter is None or self._interpreter.startswith("/usr/"):
            return ()
        tree = Path(self._interpreter).parents[1]
        return (Mount(tree, str(tree)),)

    def _side(self, script: str, files: Mapping[str, bytes]) -> two_processes.Side:
        support = resources.files("megatron_octo.evaluation.languages").joinpath("support", "python")
        texts = {name: support.joinpath(name).read_bytes() for name in ("plain.py", script)}
        argv = [self._interpreter or "/usr/bin/python3", "-E", "-s", "-S", "-B", f"/w/{script}"]
        return two_processes.Side(argv, {**texts, **files}, self._mounts, {"PYTHONHASHSEED": "0"})

    @functools.cache  # noqa: B019 - one object per evaluation
    def toolchain(self) -> Toolchain:
        """Find the interpreter."""
        if self._interpreter is None:
            return Toolchain(False, "", "", ("apt: python3",))
        command = [self._interpreter, "-I", "-c", "import sys; print(sys.version)"]
        version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.replace("\n", " ").strip()
        sides = [self._side(name, {}).files for name in ("tester.py", "solution.py")]
        texts = {name: text.decode() for side in sides for name, text in side.items()}
        numpy = Path(_DISTRIBUTION, "numpy").is_dir()
        return Toolchain(True, version, digest_json([version, texts, numpy]))

    def program(self, row: "Row", solution: str) -> Program:
        """Put imports before a solution; the test gets the trusted functions of the declaration."""
        definitions = _DEFINITION.findall(row.declaration)
        head = f"{row.declaration.rstrip()}\n    pass\n"
        sources = {
            "solution.txt": "\n".join(filter(None, (imports_of(solution), solution))),
            "head.txt": "\n".join(filter(None, (imports_of(head + row.test), head))),
            "test.txt": row.test,
            "entry": definitions[-1] if definitions else row.entry_point,
        }
        return Program(sources, digest_json({"language": self.name, "level": 2, **sources}))

    def judge(self, program: Program, box: "Sandbox", limits: Limits) -> Verdict:
        """Run the solution in one process and its test in another."""
        source = program.sources["solution.txt"].encode(errors="surrogatepass").decode(errors="replace")
        side = self._side("solution.py", {"solution.txt": source.encode()})
        job = {
            "head": program.sources["head.txt"],
            "test": program.sources["test.txt"],
            "entry": program.sources["entry"],
        }
        return two_processes.judge(side, job, self._testers, box, limits)

    def close(self) -> None:
        """End the processes that run tests."""
        self._testers.close()


def numpy_package() -> str | None:
    """Return the package to install where programs that name numpy cannot import it."""
    return None if Path(_DISTRIBUTION, "numpy").is_dir() or not shutil.which("apt-get") else "apt: python3-numpy"
