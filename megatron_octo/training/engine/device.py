"""Device of this process."""

import os

import torch

from megatron_octo.common.errors import OctoError


def own_device(wanted: str = "auto") -> torch.device:
    """Return the device of this process and make it the current one: GPU ``LOCAL_RANK`` (modulo), or the CPU.

    Args:
        wanted: as ``system.device`` of a recipe.

    Raises:
        OctoError: ``cuda`` is wanted, and there is no GPU.
    """
    if wanted == "cpu" or not torch.cuda.is_available():
        if wanted == "cuda":
            raise OctoError(
                "no usable GPU",
                where="system.device",
                hint="check nvidia-smi and the torch build, or use auto",
            )
        # OMP_NUM_THREADS limits the threads, which several ranks of a machine share.
        threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        torch.set_num_threads(max(1, int(threads)) if threads.isdecimal() else 1)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
