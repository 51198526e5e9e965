"""Status of ranks: step, phase, operation they wait in; and which of them the others wait for."""

import contextlib
import json
import linecache
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

# Phases in the order of a step; docs/faults.md describes them.
Phase = Literal["start", "data", "gradients", "totals", "update", "replicas", "saving", "validation", "end"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Status:
    """Report of a rank.

    Attributes:
        age: seconds since it came to this phase of this step.
        collective: the oldest operation between ranks that it waits in, such as ``all_reduce of DATA_PARALLEL_GROUP``.
        waits: seconds since that began.
        started: whether the GPU has begun it, so that all earlier work is done; None: not known.
        frame: innermost line of the main thread.
    """

    rank: int
    host: str
    step: int = 0
    phase: Phase = "start"
    age: float = 0.0
    collective: str | None = None
    waits: float = 0.0
    started: bool | None = None
    frame: str | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Step and number of the phase, for comparison."""
        return self.step, PHASES.index(self.phase)

    def __str__(self) -> str:
        text = f"rank {self.rank} ({self.host}): step {self.step}, {self.phase}, for {self.age:.0f} s"
        text += f", waits in {self.collective}" if self.collective else ""
        return text + (f", at {self.frame}" if self.frame else "")

    def to_json(self) -> dict[str, Any]:
        """Return this as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` made a value of."""
        return cls(**value)


def find_behind(statuses: list[Status]) -> list[Status]:
    """Return the ranks for which the others wait.

    Of those that are least far: the ones that wait in no operation; else those whose GPU has not begun the operation
    that the others' have; else the one that has waited longest, since the others came later.
    """
    first = min(status.place for status in statuses)
    behind = [status for status in statuses if status.place == first]
    busy = [status for status in behind if status.collective is None]
    if busy:
        return busy
    late = [status for status in behind if status.started is False]
    if late and len(late) < len(behind):
        return late
    if len(behind) < len(statuses):
        return behind
    return [max(behind, key=lambda status: status.waits)]


def current_frame() -> str | None:
    """Return file, line and function of the main thread; frames of the standard library and torch are passed over."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    innermost = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if "megatron" in file and not file.endswith("model/platform/cpu.py"):  # which is under every call
            return _line(file, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return _line(innermost.f_code.co_filename, innermost.f_lineno, innermost.f_code.co_name) if innermost else None


def stacks() -> str:
    """Return the stacks of all threads of this process, innermost call last; the main thread is last."""
    frames = sys._current_frames()
    main = threading.main_thread()
    others = [thread for thread in threading.enumerate() if thread is not main]
    return "\n".join(
        f"Thread {thread.name} (innermost call last):\n" + "".join(traceback.format_stack(frame))
        for thread in (*others, main)
        if (frame := frames.get(thread.ident or 0)) is not None
    )


def _line(file: str, number: int, function: str) -> str:
    text = linecache.getline(file, number).strip()
    return f"{Path(file).name}:{number} in {function}" + (f": {text}" if text else "")


def waiting_in() -> tuple[str | None, float, bool | None]:
    """Return name, age and state of the oldest unfinished operation between ranks, by torch's flight recorder.

    The recorder keeps the last ``TORCH_FR_BUFFER_SIZE`` operations of each rank, for NCCL and for gloo.
    """
    import torch._C._distributed_c10d as c10d

    for dump in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        # A build without NCCL, or another version of torch: the record has no fixed format, and the watch must go on.
        with contextlib.suppress(AttributeError, RuntimeError, ValueError, LookupError, TypeError):
            if found := _oldest_open(json.loads(getattr(c10d, dump)())["entries"]):
                return found
    return _waiting_by_stack(), 0.0, None


def _oldest_open(entries: list[dict[str, Any]]) -> tuple[str, float, bool | None] | None:
    """Return the answer of :func:`waiting_in` from the recorder's entries; None if no operation is open."""
    still_open = [entry for entry in entries if not entry.get("retired") and entry["state"] != "completed"]
    if not still_open:
        return None
    oldest = min(still_open, key=lambda entry: int(entry["time_created_ns"]))
    backend, _, name = str(oldest["profiling_name"]).partition(":")
    group = oldest["process_group"][1]
    started = oldest["state"] == "started" if backend == "nccl" else None
    sizes = "x".join(map(str, oldest["input_sizes"][0])) if oldest["input_sizes"] else ""
    number = oldest["p2p_seq_id" if oldest["is_p2p"] else "collective_seq_id"]
    text = f"{backend} {name} number {number} of {group}" + (f", {sizes} elements" if sizes else "")
    return text, max(0.0, time.time() - int(oldest["time_created_ns"]) / 1e9), started


def _waiting_by_stack() -> str | None:
    # Gloo's messages from one rank to another are not recorded.
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return None
    code, text = frame.f_code, linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    inside = code.co_filename.endswith("distributed_c10d.py") or ".wait()" in text
    return f"{code.co_name} (one rank to another)" if inside and "threading" not in code.co_filename else None
