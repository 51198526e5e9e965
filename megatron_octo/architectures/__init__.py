"""The architectures that the library trains and converts: one file each, and the list of them is this directory."""

import difflib
import functools
import importlib
import pkgutil

from megatron_octo.architectures.base import Architecture


@functools.cache
def architectures() -> dict[str, Architecture]:
    """All of them by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")
    found = [importlib.import_module(f"{__name__}.{name}").ARCHITECTURE for name in names]
    return {architecture.name: architecture for architecture in found}


def find_architecture(name: str) -> Architecture:
    """Raises:
    ValueError: there is none of this name.
    """
    known = architectures()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown architecture {name!r}, known are {', '.join(known)}{hint}")
    return known[name]
