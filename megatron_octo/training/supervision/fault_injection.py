"""Fault injection: ``OCTO_FAULT="rank=1,step=7,kind=hang"`` (docs/faults.md). Off unless that variable is set."""

import errno
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from megatron_octo.common.errors import OctoError
from megatron_octo.training.supervision.diagnosis import PHASES, Phase

if TYPE_CHECKING:
    from megatron_octo.training.engine.network import Network

VARIABLE = "OCTO_FAULT"
# Faults at the beginning of a phase.
_AT = ("exit", "kill", "crash", "stop", "hang", "wait", "exception", "mistake", "full", "slow")
# Faults of numbers: a NaN, gradients and loss a thousand times as large, weights that differ on this rank.
_NUMBERS = ("nan", "spike", "drift")
KINDS = (*_AT, *_NUMBERS)
_KEYS = ("kind", "rank", "step", "phase", "attempt", "seconds")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        attempt: in which it occurs; None: in every one.
        seconds: of ``slow``, which lasts from its step on.
    """

    kind: str
    rank: int
    step: int
    phase: Phase = "gradients"
    attempt: int | None = 1
    seconds: float = 1.0


def read_faults(text: str) -> list[Fault]:
    """Read ``key=value,key=value;...``; rank, step and kind have to be given.

    Raises:
        OctoError: it cannot be understood.
    """
    return [_read_fault(part) for part in text.split(";") if part.strip()]


def _read_fault(text: str) -> Fault:
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    wrong = [key for key in pairs if key not in _KEYS]
    wrong += [key for key in ("rank", "step", "kind") if key not in pairs]
    try:
        if wrong or pairs["kind"] not in KINDS or pairs.get("phase", "gradients") not in PHASES:
            raise ValueError
        attempt = pairs.get("attempt", "1")
        return Fault(
            kind=pairs["kind"],
            rank=int(pairs["rank"]),
            step=int(pairs["step"]),
            phase=next(phase for phase in get_args(Phase) if phase == pairs.get("phase", "gradients")),
            attempt=None if attempt == "*" else int(attempt),
            seconds=float(pairs.get("seconds", "1")),
        )
    except ValueError:
        raise OctoError(
            f"not a fault: {text.strip()!r}",
            where=VARIABLE,
            hint=f'write for instance "rank=1,step=7,kind=hang"; kinds: {", ".join(KINDS)}; '
            f"also phase={'|'.join(PHASES)}, attempt=N or *, seconds=S",
        ) from None


class Faults:
    """Faults of one rank.

    Attributes:
        attempt: number of this attempt, to be set once it is known.
    """

    def __init__(self, rank: int, environment: Mapping[str, str] = os.environ):
        self._mine = [fault for fault in read_faults(environment.get(VARIABLE, "")) if fault.rank == rank]
        self.attempt = 0

    def _due(self, step: int, kinds: tuple[str, ...]) -> list[Fault]:
        return [
            fault
            for fault in self._mine
            if fault.kind in kinds
            and fault.attempt in (None, self.attempt)
            and (step >= fault.step if fault.kind == "slow" else step == fault.step)
        ]

    def at(self, step: int, phase: Phase) -> None:
        """Do what is due at the beginning of a phase."""
        for fault in self._due(step, _AT) if self._mine else ():
            if fault.phase == phase:
                _do(fault)

    def change_gradients(self, step: int, loss: Any, network: "Network") -> Any:
        """Return the loss of a step, and change its gradients alike: NaN or much too large if that is due."""
        for fault in self._due(step, ("nan", "spike")) if self._mine else ():
            factor = float("nan") if fault.kind == "nan" else 1000.0
            loss = loss * factor
            for buffer in network.model.buffers:
                buffer.grad_data.mul_(factor)
        return loss

    def change_weights(self, step: int, network: "Network") -> None:
        """Change one element of every weight of this rank, if that is due."""
        for _ in self._due(step, ("drift",)) if self._mine else ():
            for parameter in network.core.parameters():
                first = parameter.data.view(-1)[:1]
                first += 0.01 * first.abs() + 0.01


def _do(fault: Fault) -> None:
    print(f"[rank {fault.rank}] {VARIABLE}: {fault.kind} at step {fault.step}, {fault.phase}", flush=True)
    match fault.kind:
        case "exit":
            os._exit(1)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            while True:
                time.sleep(3600)
        case "wait":
            _wait_alone()
        case "exception":
            raise RuntimeError(f"a fault on purpose, step {fault.step}")
        case "mistake":
            raise OctoError(f"a mistake on purpose, step {fault.step}", where=VARIABLE)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a disk that is full on purpose")
        case "slow":
            time.sleep(fault.seconds)


def _wait_alone() -> None:
    """Wait in an operation between ranks without the other rank."""
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    received = torch.empty(1, device=device)
    dist.recv(received, src=(dist.get_rank() + 1) % dist.get_world_size())
    received.item()  # NCCL's operations come back at once
