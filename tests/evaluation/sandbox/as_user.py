"""Runs a function as an ordinary user, in a forked child; sandboxes differ for root and for others."""

import os
import pickle
from collections.abc import Callable
from typing import Any

USER = 12_345


def as_user(work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns when an ordinary user calls it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
            with os.fdopen(write, "wb") as file:
                pickle.dump(work(), file)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return pickle.loads(data)
