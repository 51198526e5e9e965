"""megatron_octo: from a jsonl of code edits to a Hugging Face checkpoint, on Megatron-core."""

import sys

# Where imports would fail with a traceback, say why: old Python (which can still read this file), or nothing installed.
_problem = ""
if sys.version_info < (3, 12):  # noqa: UP036
    _problem = "needs Python 3.12 or newer, this is " + sys.version.split()[0]
elif sys.argv[:1] == ["-m"]:  # python -m megatron_octo.X also runs from a mere checkout
    from importlib.util import find_spec

    _missing = [name for name in ("pydantic", "yaml", "numpy", "torch") if find_spec(name) is None]
    _problem = "is not installed in this Python: missing " + ", ".join(_missing) if _missing else ""
if _problem:
    sys.stderr.write("error: megatron_octo %s\n  where: %s\n" % (_problem, sys.executable))  # noqa: UP031
    sys.stderr.write("  hint:  run `make install` in the project, then use its .venv/bin/python\n")
    sys.exit(2)

from megatron_octo import _moved  # noqa: E402

__version__ = "0.1.0"

_moved.install()
