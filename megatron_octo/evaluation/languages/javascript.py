"""JavaScript: solution and test in two processes of Node.js."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_octo.common.files import digest_json
from megatron_octo.evaluation.languages import two_processes
from megatron_octo.evaluation.languages.base import Language, Program, Toolchain
from megatron_octo.evaluation.records import Verdict
from megatron_octo.evaluation.sandbox.limits import Limits

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.sandbox.box import Sandbox

_ENTRY = re.compile(r"^(?:const|let|var)\s+(\w+)\s*=|^(?:async\s+)?function\s+(\w+)\s*\(", re.MULTILINE)
_HEAP_MIB = 512
_ADDRESS = 0  # no limit: V8 reserves tens of gigabytes of addresses that it never touches
_NODE = ("--single-threaded", f"--max-old-space-size={_HEAP_MIB}", "--stack-size=900", "--no-warnings")


class JavaScript(Language):
    """JavaScript programs, by Node.js."""

    name = "js"

    def __init__(self, cache: Path) -> None:
        """Take the folder for what is built once; JavaScript builds nothing."""
        self._testers = two_processes.Testers(self._side("tester.js", {}))

    @functools.cached_property
    def _node(self) -> str | None:
        for path in (shutil.which("node", path="/usr/bin:/usr/local/bin"), shutil.which("nodejs", path="/usr/bin")):
            if path:
                return path
        return None

    def _side(self, script: str, files: Mapping[str, bytes]) -> two_processes.Side:
        support = resources.files("megatron_octo.evaluation.languages").joinpath("support", "js")
        texts = {name: support.joinpath(name).read_bytes() for name in ("plain.js", script)}
        argv = [self._node or "/usr/bin/node", *_NODE, f"/w/{script}"]
        return two_processes.Side(argv, {**texts, **files})

    @functools.cache  # noqa: B019 - one object per evaluation
    def toolchain(self) -> Toolchain:
        """Find Node.js."""
        if self._node is None:
            return Toolchain(False, "", "", ("apt: nodejs",))
        version = subprocess.run([self._node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        sides = [self._side(name, {}).files for name in ("tester.js", "solution.js")]
        texts = {name: text.decode() for side in sides for name, text in side.items()}
        return Toolchain(True, f"node {version}", digest_json([version, texts, _NODE]))

    def program(self, row: "Row", solution: str) -> Program:
        """Keep the solution as it is; the test gets the trusted functions of the declaration."""
        *before, last = _ENTRY.finditer(row.declaration)
        entry = last[1] or last[2]
        helpers = row.declaration[: last.start()]
        names = [match[1] or match[2] for match in before] + [entry]
        sources = {
            "solution.txt": solution,
            "names.txt": json.dumps(names),
            "head.txt": helpers,
            "test.txt": row.test,
            "entry": entry,
        }
        return Program(sources, digest_json({"language": self.name, "level": 2, **sources}))

    def judge(self, program: Program, box: "Sandbox", limits: Limits) -> Verdict:
        """Run the solution in one process and its test in another."""
        files = {name: program.sources[name].encode(errors="replace") for name in ("solution.txt", "names.txt")}
        side = self._side("solution.js", files)
        job = {
            "head": program.sources["head.txt"],
            "test": program.sources["test.txt"],
            "entry": program.sources["entry"],
        }
        bounded = dataclasses.replace(limits, address_bytes=_ADDRESS)
        return two_processes.judge(side, job, self._testers, box, bounded)

    def close(self) -> None:
        """End the processes that run tests."""
        self._testers.close()
