"""GPUs by name. Figures are the vendors'; the memory is as torch reports it."""

from dataclasses import dataclass

from megatron_octo.common.errors import OctoError
from megatron_octo.sizing.flops import peak_flops

# CUDA's context and NCCL's buffers lie outside of torch's allocator, whose memory is fragmented, too: on an 80 GB H100
# a run of 76.9 GiB did not fit.
_OUTSIDE_GIB, _SCATTERED = 2.0, 0.02


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    Attributes:
        memory: GiB; ``bandwidth`` of the memory in bytes/s.
        nvlink: bytes/s to its peers, one way.
    """

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
        """GiB that the tensors of a run may take."""
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
    """Return a GPU by its name in any case.

    Raises:
        OctoError: there is no such GPU.
    """
    if name.lower() not in GPUS:
        raise OctoError(f"unknown GPU {name!r}", where="--gpu", hint=f"known are {', '.join(GPUS)}")
    return GPUS[name.lower()]
