"""Spans and moments of time in words, the same in every command."""

import math
import time

_UNITS = ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"))


def duration(seconds: float) -> str:
    """Return a span in the largest unit of which it has two: ``3.4 days``, ``26.1 hours``, ``48 s``."""
    if not math.isfinite(seconds):
        return "unlimited"
    size, name = next(((size, name) for size, name in _UNITS if seconds >= 2 * size), (1.0, "s"))
    amount = max(0.0, seconds) / size
    digits = 0 if name == "s" and amount >= 10 else 1
    return f"{amount:,.{digits}f} {name}"


def moment(seconds: float | None) -> str:
    """Return a Unix time as local date and time; ``-`` for None, 0 and times that the calendar does not have."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else "-"
    except (ValueError, OverflowError, OSError):
        return "-"
