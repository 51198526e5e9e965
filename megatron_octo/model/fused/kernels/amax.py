"""The largest absolute number of a tensor, noted by the kernel that wrote it: who rounds the tensor to fp8 has not to
read it for that first, a third of what rounding reads and writes.

The note travels on the tensor, through autograd, to the next function. A tensor that came another way (a piece of
another, one received) has none, and is read.
"""

from torch import Tensor


def note(tensor: Tensor, parts_P: Tensor) -> None:
    """Args:
    parts_P: the largest absolute numbers of parts of the tensor, as they are stored in it, fp32.
    """
    tensor.largest_of_parts = (parts_P, tensor._version)  # type: ignore[attr-defined]


def noted(tensor: Tensor) -> Tensor | None:
    """What was noted, unless the tensor has been written since."""
    parts_P, version = getattr(tensor, "largest_of_parts", (None, -1))
    return parts_P if version == tensor._version else None
