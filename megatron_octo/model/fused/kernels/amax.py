"""The largest absolute number ("amax") of a tensor, noted on it by the kernel that wrote it.

Rounding to fp8 needs that number, and reading the tensor for it is a third of the bytes that rounding reads and writes.
The note travels on the tensor, through autograd, to the next function. A tensor made otherwise (a piece of another, one
received from another rank) carries no note, and is read.
"""

from torch import Tensor


def note(tensor: Tensor, parts_P: Tensor) -> None:
    """Note the largest absolute numbers of a tensor's parts, fp32 [P], as they are stored in it."""
    tensor.largest_of_parts = (parts_P, tensor._version)  # type: ignore[attr-defined]


def noted(tensor: Tensor) -> Tensor | None:
    """Return the note, fp32 [P]; None where there is none, or the tensor has been written since."""
    parts_P, version = getattr(tensor, "largest_of_parts", (None, -1))
    return parts_P if version == tensor._version else None
