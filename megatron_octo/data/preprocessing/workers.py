"""Spread work over processes, keep its order, and notice when one dies."""

import multiprocessing
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from megatron_octo.common.errors import OctoError


def _serve[A, B](connection: Connection, make: Callable[[], Callable[[A], B]]) -> None:
    # Ctrl-C reaches the whole process group: the parent decides, and its closed pipe ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler: Callable[[A], B] | None = None
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            handler = handler or make()
            answer: tuple[bool, B | Exception] = (True, handler(item))
        except Exception as error:  # raised again in the parent
            answer = (False, error)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return


class _Worker[A, B]:
    def __init__(self, make: Callable[[], Callable[[A], B]]):
        # A fork would copy locks that the tokenizer's threads hold.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, item: A) -> B:
        try:
            self.connection.send(item)
            reply: tuple[bool, Any] = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(5)
            raise OctoError(
                f"a worker process died (exit code {self.process.exitcode})",
                where=f"process {self.process.pid}",
                hint="code -9 mostly means that memory ran out: use fewer --workers",
            ) from None
        good, answer = reply
        if not good:
            raise answer
        result: B = answer
        return result

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def ordered_map[A, B](make: Callable[[], Callable[[A], B]], items: Iterable[A], workers: int) -> Iterator[B]:
    """Run ``map(make(), items)`` over ``workers`` processes, results in the order of the items.

    At most two items per worker are in flight, so memory is bounded whatever the number of items.
    With one worker everything happens in this process.

    Raises:
        OctoError: a worker died. What a worker raised is raised here, in the order of the items.
    """
    if workers <= 1:
        yield from map(make(), items)
        return
    crew: list[_Worker[A, B]] = []
    idle: queue.SimpleQueue[_Worker[A, B]] = queue.SimpleQueue()

    def call(item: A) -> B:
        worker = idle.get()
        try:
            return worker.call(item)
        finally:
            idle.put(worker)

    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[B]] = deque()
        try:
            for item in items:
                if len(crew) < workers:
                    crew.append(_Worker(make))
                    idle.put(crew[-1])
                pending.append(pool.submit(call, item))
                if len(pending) >= 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            for worker in crew:
                worker.stop()
