"""Page-locked memory: copies from a GPU into it do not block, and it can be freed."""

import gc

import pytest
import torch

from megatron_octo.checkpoint.page_lock import page_locked

pytestmark = pytest.mark.gpu  # pages are locked for its copies


def test_copies_arrive() -> None:
    locked = page_locked((1 << 20) + 3)
    assert locked.is_pinned()
    assert not locked.any()
    values = torch.randint(0, 256, locked.shape, dtype=torch.uint8, device="cuda")
    locked.copy_(values, non_blocking=True)
    torch.cuda.synchronize()
    assert torch.equal(locked, values.cpu())


def test_too_much() -> None:
    with pytest.raises(RuntimeError, match="bytes of memory"):
        page_locked(1 << 60)


def test_given_back() -> None:
    locked = page_locked(1 << 20)
    place, view = locked.data_ptr(), locked[:10]
    del locked
    gc.collect()
    assert view.is_pinned()
    del view
    gc.collect()
    cuda = torch.cuda.cudart()
    assert cuda.cudaHostUnregister(place) != cuda.cudaError.success  # nothing is locked there
