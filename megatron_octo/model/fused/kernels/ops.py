"""Dispatch by device: Triton's kernels on a GPU, elsewhere :mod:`.torch_reference`, which documents each operation."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from megatron_octo.model.fused.kernels import torch_reference


def _by_device(kernels: str, name: str) -> Callable[..., Any]:
    def call(tensor: Tensor, *rest: Any) -> Any:
        # Imported here, because Triton comes with torch's CUDA builds only.
        module = import_module(f"{__package__}.{kernels}") if tensor.is_cuda else torch_reference
        return getattr(module, name)(tensor, *rest)

    return call


add_norm_forward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = _by_device("norm_kernels", "add_norm_forward")
add_norm_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = _by_device("norm_kernels", "add_norm_backward")
gelu_forward: Callable[..., Tensor] = _by_device("gelu_kernels", "gelu_forward")
gelu_backward: Callable[..., tuple[Tensor, Tensor]] = _by_device("gelu_kernels", "gelu_backward")
cross_entropy_forward: Callable[..., tuple[Tensor, Tensor]] = _by_device(
    "cross_entropy_kernels", "cross_entropy_forward"
)
cross_entropy_backward_: Callable[..., None] = _by_device("cross_entropy_kernels", "cross_entropy_backward_")
column_sums: Callable[..., Tensor] = _by_device("column_sums", "column_sums")
add_rows_: Callable[..., None] = _by_device("table_rows", "add_rows_")
