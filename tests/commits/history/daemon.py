"""A real git server on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.commits.history.made import ENVIRONMENT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def git_daemon(base: Path) -> Iterator[str]:
    """Serve all repositories below a directory; gives the URL of the directory."""
    port = free_port()
    command = ["git", "daemon", f"--base-path={base}", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    process = subprocess.Popen(
        [*command, "--reuseaddr", os.fspath(base)],
        env=environment | {name: ENVIRONMENT[name] for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:  # until it answers
            assert process.poll() is None, "git daemon ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield f"git://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
