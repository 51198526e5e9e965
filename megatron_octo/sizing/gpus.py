"""What the planner knows of GPUs, by name. Figures are the vendors'; the memory is what torch reports."""

from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.sizing.flops import peak_flops

# CUDA's context and NCCL's buffers lie outside of torch's allocator, and some of what is inside cannot be put together
# again: on an 80 GB H100 a run of 76.9 GiB did not fit.
_OUTSIDE_GIB, _SCATTERED = 2.0, 0.02


@dataclass(frozen=True)
class Gpu:
    """Attributes: name, memory (GiB), bandwidth of its memory (bytes/s), of NVLink to its peers (bytes/s, one way)."""

    name: str
    memory: float
    bandwidth: float
    nvlink: float

    @property
    def peak(self) -> float:
        """Dense bf16 FLOP/s."""
        found = peak_flops(self.name)
        assert found is not None  # the table below holds no other names (tests/model/test_memory.py)
        return found

    @property
    def usable(self) -> float:
        """GiB that a run's tensors may take."""
        return (1 - _SCATTERED) * self.memory - _OUTSIDE_GIB


GPUS = {
    "h100": Gpu("H100", 79.1, 3.35e12, 450e9),
    "h200": Gpu("H200", 139.8, 4.8e12, 450e9),
    "h800": Gpu("H800", 79.1, 3.35e12, 200e9),
    "a100": Gpu("A100", 79.1, 2.04e12, 300e9),
    "a100-40": Gpu("A100", 39.4, 1.56e12, 300e9),
    "a800": Gpu("A800", 79.1, 2.04e12, 200e9),
    "b200": Gpu("B200", 178.0, 8.0e12, 900e9),
}


def find_gpu(name: str) -> Gpu:
    """Raises:
    OctoError: no such GPU is known.
    """
    if name.lower() not in GPUS:
        raise OctoError(f"unknown GPU {name!r}", where="--gpu", hint=f"known are {', '.join(GPUS)}")
    return GPUS[name.lower()]
