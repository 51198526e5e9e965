"""One process per device, which take problems from one queue; answers come back to the process that writes them."""

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from megatron_octo.common.errors import OctoError

_LOOK = 1.0  # seconds between two looks at whether the processes live


class Shares[Item]:
    """A list of groups, taken one at a time by whichever process is free first."""

    def __init__(self, groups: Sequence[Sequence[Item]], taken: Any) -> None:
        """Keep the groups and the shared number of those taken (``multiprocessing.Value``)."""
        self._groups, self._taken = groups, taken

    def __iter__(self) -> Iterator[Item]:
        """Take groups until none is left; yields their items."""
        while True:
            with self._taken.get_lock():
                number = self._taken.value
                self._taken.value += 1
            if number >= len(self._groups):
                return
            yield from self._groups[number]


def over_devices[Item, Result](
    devices: Sequence[str],
    groups: Sequence[Sequence[Item]],
    work: Callable[[str, Iterable[Item]], Iterator[Result]],
) -> Iterator[Result]:
    """Yield what ``work`` makes of all items, on one process per device.

    The processes end when this one does, and when the iterator is closed.

    Args:
        devices: names, for ``work``.
        groups: items that belong together; the order decides which are taken first.
        work: a function that can be pickled: device and items to results that can be pickled.

    Raises:
        OctoError: of ``work``, or a process ended without a word, as it does when memory is exhausted.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    taken = context.Value("q", 0)
    processes = [
        context.Process(target=_run, args=(number, device, Shares(groups, taken), work, results), daemon=True)
        for number, device in enumerate(devices)
    ]
    running = dict(enumerate(processes))
    for process in processes:
        process.start()
    try:
        while running:
            try:
                number, kind, value = results.get(timeout=_LOOK)
            except queue.Empty:
                _refuse_dead(running, devices, results)
                continue
            if kind == "result":
                yield value
            elif kind == "mistake":
                raise value
            elif kind == "fault":
                raise RuntimeError(f"generation on {devices[number]} failed:\n{value}")
            else:
                running.pop(number).join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _refuse_dead(running: dict[int, Any], devices: Sequence[str], results: Any) -> None:
    for number, process in running.items():
        if process.exitcode is not None and results.empty():
            raise OctoError(
                f"the process of {devices[number]} ended with code {process.exitcode}",
                where="evaluate generate",
                hint="a smaller --batch-size needs less memory; the same command goes on",
            )


def _run[Item, Result](
    number: int,
    device: str,
    items: Iterable[Item],
    work: Callable[[str, Iterable[Item]], Iterator[Result]],
    results: Any,
) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    try:
        for result in work(device, items):
            results.put((number, "result", result))
    except OctoError as error:
        results.put((number, "mistake", error))
    except Exception:
        results.put((number, "fault", traceback.format_exc()))
    else:
        results.put((number, "done", None))
