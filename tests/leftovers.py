"""What a kill leaves."""

import socket
from pathlib import Path

from megatron_octo.common.files import beside


def left_by_a_kill(path: Path) -> Path:
    """Half a file beside ``path``, as a killed process of another host leaves it."""
    left = beside(path)
    left = left.with_name(left.name.replace(socket.gethostname(), "another-host"))
    left.write_text("half")
    return left
