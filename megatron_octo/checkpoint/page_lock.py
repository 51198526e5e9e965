"""Host memory that a GPU copies to while it computes."""

import contextlib
import mmap
import weakref
from typing import Any

import torch
from torch import Tensor


def page_locked(size: int) -> Tensor:
    """Return zeroed bytes of page-locked host memory; a long call that releases the interpreter.

    CUDA's own allocation keeps every other thread from launching kernels while it takes the pages from the system,
    0.8 s per GiB: a stall of training. Here the calling thread takes them, and CUDA only locks them.

    Returns:
        (size,) uint8. The lock goes with it and its views.

    Raises:
        RuntimeError: there is no more memory, or no more can be locked.
    """
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise RuntimeError(f"no {size} bytes of memory: {error}") from None
    with contextlib.suppress(OSError):  # a kernel that has none
        memory.madvise(mmap.MADV_HUGEPAGE)  # 512 times fewer pages to take and to lock
    locked = torch.frombuffer(memory, dtype=torch.uint8).zero_()
    cuda: Any = torch.cuda.cudart()
    torch.cuda.check_error(cuda.cudaHostRegister(locked.data_ptr(), size, 0))
    unlock = weakref.finalize(locked, cuda.cudaHostUnregister, locked.data_ptr())
    unlock.atexit = False  # the process's end unlocks, and CUDA may be gone by then
    return locked
