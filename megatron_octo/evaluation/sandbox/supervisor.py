"""The small program that watches over a command inside its sandbox, compiled once."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from megatron_octo.common.files import digest_bytes

_SOURCE = Path(__file__).parent / "support" / "supervisor.c"


def cache_root() -> Path:
    """Return the folder for what is built once. Started by root, sandboxes run as other users, who must reach it."""
    if given := os.environ.get("OCTO_EVALUATION_CACHE"):
        return Path(given)
    if os.getuid() == 0:
        return Path("/var/cache/megatron_octo")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron_octo"


@functools.cache
def supervisor() -> Path | None:
    """Return the compiled supervisor; None without a C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    name = f"supervisor-{digest_bytes(_SOURCE.read_bytes()).rpartition(':')[2][:16]}"
    target = cache_root() / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / name
            subprocess.run([compiler, "-O1", "-o", str(made), str(_SOURCE)], check=True, capture_output=True)
            made.chmod(0o755)
            made.rename(target)
    return target
