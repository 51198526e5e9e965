"""``python -m megatron_octo.commits COMMAND ...``: commit data, from histories of git repositories to rows."""

import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from megatron_octo.commits.commands import COMMANDS, build_parser, call
from megatron_octo.common.errors import run_command

__all__ = ["COMMANDS", "build_parser", "main"]


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds, so that temporary files go


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return call(sys.argv[1:] if argv is None else argv)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
