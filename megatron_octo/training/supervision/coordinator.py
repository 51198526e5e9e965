"""Status server on rank 0. Each rank reports its step and phase; the server decides when the run must end.

Messages are lines of JSON. A process that dies closes its connection at once, whatever its GPU or its collectives do; a
machine that loses its power stops sending; a rank that hangs still sends, and its reports show it.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from megatron_octo.common.errors import FAULT
from megatron_octo.runfiles.attempts import HANG, LOST_RANK
from megatron_octo.training.supervision.diagnosis import Status, find_behind

_LEAVING_SECONDS = 20.0  # to write stacks to a slow file system
_GATHER_SECONDS = 0.3  # between deaths of ranks that have one cause


@dataclass(frozen=True)
class Verdict:
    """Reason for the end of a run.

    Attributes:
        kind: one of the reasons in runfiles/attempts.py.
        culprits: the ranks that caused it.
        what: one line for the records; ``text`` is printed ("": made from ``what``).
        code: exit code of all ranks.
    """

    kind: str
    culprits: tuple[int, ...]
    what: str
    code: int = FAULT
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return this as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        """Return what :meth:`to_json` made a value of."""
        return cls(**{**value, "culprits": tuple(value["culprits"])})


def _listen(backlog: int) -> socket.socket:
    try:
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
    except (OSError, ValueError):  # a machine without IPv6
        return socket.create_server(("", 0), backlog=backlog)


def sleep_between(before: float, now: float, silence: float) -> float:
    """Return the seconds that this process did not run at all (suspended by a scheduler, say), 0 if it did.

    No rank is late for what was not received or done meanwhile.
    """
    return now - before if now - before > silence / 2 else 0.0


class Lines:
    """Connection that carries JSON values, one per line."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self._buffer = b""

    def send(self, **message: Any) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """Return received messages, None once the other side has closed; call it when there is something to read."""
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines]
        except ValueError:
            return None  # not one of our ranks
        return messages if all(isinstance(message, dict) for message in messages) else None


@dataclass
class _Peer:
    lines: Lines
    rank: int | None = None
    host: str = "?"
    heard: float = field(default_factory=time.monotonic)
    status: Status | None = None
    left: bool = False


class Hub:
    """Receives the ranks' reports and decides; runs in a thread of rank 0.

    Args:
        world: number of ranks.
        token: that connections of this run begin with.
        limits: seconds without progress by phase, after which a rank hangs.
        silence: seconds without a message, after which a rank is lost.
        beat: seconds between messages.
    """

    def __init__(self, world: int, token: str, limits: Mapping[str, float], silence: float, beat: float):
        self._world, self._token, self._limits = world, token, limits
        self._silence, self._beat = silence, beat
        self._selector = selectors.DefaultSelector()
        self._server = _listen(backlog=max(128, world))
        self._selector.register(self._server, selectors.EVENT_READ)
        self.port = int(self._server.getsockname()[1])
        self._peers: dict[socket.socket, _Peer] = {}
        self._lost: list[_Peer] = []
        self._lost_since = 0.0
        self._closing = False
        self._failures: dict[int, Verdict] = {}
        self._failed_since = 0.0
        # A forked child would keep the connections open after this process.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        for connection in (self._server, *self._peers):
            connection.close()

    def run(self) -> None:
        """Serve until all ranks are done, or until a verdict has reached them."""
        last_beat, now = 0.0, time.monotonic()
        while True:
            self._listen(self._beat / 2)
            before, now = now, time.monotonic()
            if slept := sleep_between(before, now, self._silence):
                for peer in self._peers.values():
                    peer.heard += slept
                continue
            verdict = self._judge_failures(now) or self._judge(now)
            if verdict:
                self._announce(verdict)
                return
            if self._closing and all(peer.left for peer in self._peers.values() if peer.rank is not None):
                self._tell(bye=True)
                return
            if now - last_beat >= self._beat:
                self._tell(beat=True)
                last_beat = now

    def _listen(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._server:
                self._accept()
            elif peer := self._peers.get(key.fileobj):  # type: ignore[call-overload]
                messages = peer.lines.receive()
                for message in messages or ():
                    self._hear(peer, message)
                if messages is None:
                    self._drop(peer)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            connection.settimeout(self._silence)
            self._peers[connection] = _Peer(Lines(connection))
            self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, peer: _Peer) -> None:
        self._selector.unregister(peer.lines.socket)
        peer.lines.socket.close()
        del self._peers[peer.lines.socket]
        if peer.rank is not None and not peer.left:
            self._lost_since = self._lost_since or time.monotonic()
            self._lost.append(peer)

    def _hear(self, peer: _Peer, message: dict[str, Any]) -> None:
        peer.heard = time.monotonic()
        if peer.rank is None:
            if message.get("token") != self._token:  # not a rank of this run
                return
            peer.rank, peer.host = int(message["rank"]), str(message["host"])
        elif "status" in message:
            peer.status = Status.from_json(message["status"])
        elif "failure" in message:
            peer.left = True
            self._failed_since = self._failed_since or time.monotonic()
            self._failures[peer.rank] = Verdict.from_json(message["failure"])
        elif "bye" in message:
            peer.left = self._closing = True

    def _judge_failures(self, now: float) -> Verdict | None:
        """Return the lowest rank's verdict: many mistakes occur on all ranks at once, with the same text."""
        missing = self._world - len(self._failures)
        if not self._failures or (missing and now - self._failed_since < _GATHER_SECONDS):
            return None
        ranks = tuple(sorted(self._failures))
        first = self._failures[ranks[0]]
        return first if first.culprits != ranks[:1] else replace(first, culprits=ranks)

    def _judge(self, now: float) -> Verdict | None:
        present = [peer for peer in self._peers.values() if peer.rank is not None and not peer.left]
        silent = [peer for peer in present if now - peer.heard > self._silence]
        if silent and not self._lost:
            return self._lost_verdict(silent, f"no message from it for {self._silence:.0f} s")
        if self._lost and now - self._lost_since > _GATHER_SECONDS:
            return self._lost_verdict(self._lost, "its process has ended")
        statuses = [peer.status for peer in present if peer.status]
        hanging = [status for status in statuses if status.age > self._limits[status.phase]]
        if not hanging:
            return None
        behind = find_behind(statuses)
        others = [status for status in statuses if status not in behind]
        text = f"no progress for {max(status.age for status in hanging):.0f} s"
        text += "".join(f"; behind: {status}" for status in behind)
        text += f"; waits:  {others[0]}" if others else ""
        text += f"; and {len(others) - 1} more" if len(others) > 1 else ""
        return Verdict(HANG, tuple(sorted(status.rank for status in behind)), text)

    def _lost_verdict(self, peers: list[_Peer], why: str) -> Verdict:
        told = sorted(peers, key=lambda peer: peer.rank or 0)
        ranks = tuple(peer.rank for peer in told if peer.rank is not None)
        last = "; ".join(
            f"rank {peer.rank} ({peer.host})"
            + (f", last report from step {peer.status.step}, {peer.status.phase}" if peer.status else "")
            for peer in told
        )
        return Verdict(LOST_RANK, ranks, f"{last}; {why}")

    def _tell(self, **message: Any) -> None:
        for peer in self._peers.values():
            with contextlib.suppress(OSError):  # its end is noticed when it is read from
                peer.lines.send(**message)

    def _announce(self, verdict: Verdict) -> None:
        """Send the verdict to all, and wait until they are gone: leaving first would look like one more loss."""
        self._tell(verdict=verdict.to_json())
        now = time.monotonic()
        # The connection of rank 0 itself stays, and a silent rank cannot leave.
        leaving = {peer.rank for peer in self._peers.values() if now - peer.heard < self._silence} - {0, None}
        while leaving & {peer.rank for peer in self._peers.values()} and time.monotonic() < now + _LEAVING_SECONDS:
            self._listen(self._beat / 2)
