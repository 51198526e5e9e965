"""How often a host is asked: a token bucket, waits after refusals, and an end after many."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from megatron_octo.common.errors import OctoError

_LONGEST = 900.0  # seconds of one wait


class TooManyRefusalsError(OctoError):
    """Raised when a host has refused too many requests in a row."""


@dataclass
class Host:
    """The requests to one host; safe for several threads.

    Args:
        name: for messages.
        rate: requests per second.
        refusals: number of refusals in a row after which the work ends.
        clock: seconds, and sleeping: replaced in tests.

    Raises:
        TooManyRefusalsError: by :meth:`wait` and :meth:`refused`.
    """

    name: str
    rate: float
    refusals: int
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _next: float = 0.0
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _random: random.Random = field(default_factory=random.Random)

    def wait(self) -> None:
        """Wait for the turn of a request."""
        with self._lock:
            self._check()
            now = self.clock()
            turn = max(self._next, now)
            self._next = turn + 1 / self.rate
        if turn > now:
            self.sleep(turn - now)
        self._check()

    def accepted(self) -> None:
        """Note a request that the host answered."""
        with self._lock:
            self._in_a_row = 0

    def refused(self, retry_after: float | None) -> None:
        """Note a refusal; the next request waits as long as the host says, or twice as long as after the last one."""
        with self._lock:
            self._in_a_row += 1
            pause = min(2.0 ** (self._in_a_row - 1) * self._random.uniform(0.5, 1.0), _LONGEST)
            pause = max(pause, min(retry_after or 0.0, _LONGEST))
            self._next = max(self._next, self.clock() + pause)
            self._check()

    def _check(self) -> None:
        if self._in_a_row >= self.refusals:
            what = f"{self._in_a_row} requests in a row were refused, or not answered"
            hint = "start the same command later: it goes on; see --rate, --in-flight and --refusals"
            raise TooManyRefusalsError(what, where=self.name, hint=hint)
