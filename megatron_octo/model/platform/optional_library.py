"""Check of an optional library before it is used: is it installed, and are its results right on this GPU?"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

TOLERANCE = 0.02  # relative; bf16 rounds by 0.4 %


@dataclass(frozen=True)
class Library:
    """An optional package, the extra of this project that installs it, and the version needed."""

    package: str
    extra: str
    needed: str

    def __str__(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)}"

    @property
    def installed(self) -> bool:
        """Return whether the package is installed, in any version."""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return False
        return True

    def examine(self, obstacle: Callable[[], str | None], measure: Callable[[], float]) -> str | None:
        """Return why the library cannot be used on this GPU, or None.

        Args:
            obstacle: Called first, returns a reason or None; it may raise anything that the library raises.
            measure: Computes something small with the library and returns the relative error, or nan.
        """
        if not self.installed:
            return f"{self.package} is not installed (pip install -e .[{self.extra}])"
        try:
            if problem := obstacle():
                return problem
            error = measure()
        # The libraries' own errors have no common base, and each becomes the reason.
        except Exception as failure:
            first = (str(failure).splitlines() or [""])[0]
            return f"{self} ({self.needed} is needed) failed: {type(failure).__name__}: {first}"
        if not error < TOLERANCE:
            return f"{self} computes something else here: relative error {error:.2g}"
        return None


def relative(found: Tensor, expected: Tensor) -> Tensor:
    """Return the norm of the difference divided by the norm of ``expected``, fp32 []."""
    error: Tensor = (found.detach().float() - expected.detach()).norm() / expected.detach().norm()
    return error
