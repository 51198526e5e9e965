"""The unbiased estimate of pass@k (Chen et al. 2021, https://arxiv.org/abs/2107.03374, section 2.1)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megatron_octo.common.errors import OctoError

type Scores = NDArray[np.float64]


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Scores:
    """Return, for each problem, the chance that at least one of ``k`` of its samples passes.

    It is 1 - C(n - c, k) / C(n, k), computed as a product, which neither overflows nor cancels.

    Args:
        n: number of samples of each problem, at least ``k``.
        c: how many of them passed.
        k: number of tries, at least 1.

    Returns:
        float64, shape as ``n`` and ``c``, at least one-dimensional.

    Raises:
        OctoError: a problem has fewer than ``k`` samples.
    """
    total, good = np.broadcast_arrays(np.atleast_1d(np.asarray(n)), np.atleast_1d(np.asarray(c)))
    if k < 1 or (total.size and int(total.min()) < k):
        least = int(total.min()) if total.size else 0
        raise OctoError(f"pass@{k} of {least} samples", hint=f"k from 1 to {least}")
    if np.any(good < 0) or np.any(good > total):
        raise OctoError("more passed than there are samples")
    failing = (total - good).astype(np.float64)
    missed = np.ones(total.shape)
    for taken in range(k):  # none of k draws without putting back passes
        missed *= np.clip(failing - taken, 0.0, None) / (total - taken)
    return 1.0 - missed
