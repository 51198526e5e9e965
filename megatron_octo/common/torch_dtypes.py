"""Number formats of :mod:`megatron_octo.common.dtypes` as torch's dtypes."""

import torch

from megatron_octo.common import dtypes

# A recipe's name <-> dtype of weights.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, each) for name, each in dtypes.PRECISIONS.items()}
PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
# Dtype <-> safetensors' name.
DTYPE_NAMES: dict[torch.dtype, str] = {getattr(torch, each): name for each, name in dtypes.SAFETENSORS.items()}
NAMED_DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}
