"""From a solution to a verdict: toolchains, assembly of programs, compilation and execution in the sandbox.

Models and scores over many samples do not belong here.
"""

import importlib
from pathlib import Path

from megatron_octo.evaluation.languages.base import Language

_CLASSES = {
    "python": "python.Python",
    "js": "javascript.JavaScript",
    "java": "java.Java",
    "go": "go.Go",
    "cpp": "cpp.Cpp",
    "rust": "rust.Rust",
}


def language(name: str, cache: Path) -> Language:
    """Return a language of LANGUAGES; what it builds once lies in ``cache``."""
    module, _, kind = _CLASSES[name].partition(".")
    found: Language = getattr(importlib.import_module(f"{__name__}.{module}"), kind)(cache)
    return found
