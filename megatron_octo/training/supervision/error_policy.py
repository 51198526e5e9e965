"""Handling of an error in one rank: one message or traceback, a record, and one exit code for all ranks."""

import contextlib
import traceback
from collections.abc import Iterator
from typing import NoReturn

import torch
import torch.distributed as dist

from megatron_octo.common.errors import MachineError, OctoError, machines_failure, users_mistake
from megatron_octo.runfiles import attempts as records
from megatron_octo.training.engine.replica_check import ReplicaError
from megatron_octo.training.supervision.coordinator import Verdict
from megatron_octo.training.supervision.rank_agent import Watch

_BUG = 1  # as Python exits after a traceback
# Failures of machines, by the words of torch and its libraries.
_LOST = (
    "gloo",
    "Connection closed by peer",
    "Connection reset by peer",
    "ProcessGroup",
    "NCCL",
    "c10d",
    "TCPStore",
)
_NO_MEMORY = "can't allocate memory"  # torch's allocator on the CPU
_DEVICE = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "cuDNN error", "uncorrectable ECC", "NVML")


def lost_contact(error: BaseException) -> bool:
    """Return whether an operation between ranks failed, most likely since another rank is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST)
    )


def explain(error: BaseException) -> OctoError | None:
    """Return an error that needs no traceback; None for a bug."""
    if isinstance(error, OctoError):
        return error
    if isinstance(error, OSError):
        return machines_failure(error) or users_mistake(error)
    if isinstance(error, torch.OutOfMemoryError):
        return OctoError(
            f"out of GPU memory: {str(error).splitlines()[0]}",
            where="batch.micro_size, train.recompute, parallel",
            hint="smaller micro-batches, recompute: mlp or full, or more tensor or pipeline ranks",
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
        first = (str(error).strip() or "an allocation failed").splitlines()[0]
        return OctoError(
            f"out of memory on the CPU: {first}",
            where="batch.micro_size, model, or other programs on this machine",
            hint="take smaller micro-batches, a smaller model or fewer ranks per machine, or raise the memory limit",
        )
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _DEVICE):
        return MachineError(
            f"the GPU failed: {str(error).splitlines()[0]}",
            hint="look at dmesg and nvidia-smi on this machine",
        )
    return None


@contextlib.contextmanager
def supervised(watch: Watch) -> Iterator[None]:
    """End all ranks with one exit code after an error inside; the error does not leave this block."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        _end(error, watch)


def _end(error: BaseException, watch: Watch) -> NoReturn:
    trace = "".join(traceback.format_exception(error))
    known = explain(error)
    if known is None and lost_contact(error):
        watch.wait_for_verdict()  # mostly it ends the process
        text = str(error).strip().splitlines() or [type(error).__name__]
        known = MachineError(f"an operation between ranks failed, and no rank is missing: {text[0]}")
        known.kind = records.LOST_RANK
    prefix = f"[rank {watch.rank}] " if watch.rank else ""
    if known is not None:
        culprits = known.ranks if isinstance(known, ReplicaError) else (watch.rank,)
        verdict = Verdict(known.kind, culprits, known.what, known.code, f"{prefix}error: {known}")
        where = str(known.where) if known.where is not None else None
        watch.fail(verdict, traceback=trace, where=where, hint=known.hint)
    what = traceback.format_exception_only(error)[-1].strip()
    watch.fail(Verdict(records.ERROR, (watch.rank,), what, _BUG, prefix + trace), traceback=trace)
