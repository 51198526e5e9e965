"""What every language offers: a toolchain, a program, a verdict."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_octo.evaluation.records import Verdict

if TYPE_CHECKING:
    from megatron_octo.evaluation.benchmark.rows import Row
    from megatron_octo.evaluation.sandbox.box import Sandbox
    from megatron_octo.evaluation.sandbox.limits import Limits


@dataclass(frozen=True)
class Toolchain:
    """Compilers of a language on this machine.

    Attributes:
        found: whether programs can be judged.
        version: of the compiler or interpreter, one line.
        digest: changes whenever verdicts might; part of the cache's key.
        missing: packages to install, as ``apt: NAME`` or ``npm: NAME``.
    """

    found: bool
    version: str
    digest: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Program:
    """Source texts by file name, and a digest of all that decides the verdict except toolchain and limits."""

    sources: Mapping[str, str]
    digest: str


class Language(ABC):
    """One language. An object serves many threads, each with its own sandbox."""

    name: str

    @abstractmethod
    def toolchain(self) -> Toolchain:
        """Find the toolchain, and build once what all programs share."""

    @abstractmethod
    def program(self, row: "Row", solution: str) -> Program:
        """Join a solution (base and completion) with the row's test. Equal inputs give equal programs."""

    @abstractmethod
    def judge(self, program: Program, box: "Sandbox", limits: "Limits") -> Verdict:
        """Compile and run a program in a sandbox."""

    def close(self) -> None:  # noqa: B027 - most languages keep nothing
        """End what was started for many programs."""
