"""Choice of the matrix products of a run: fp8, QuACK's or plain ones."""

import torch

from megatron_octo.common.errors import OctoError
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import ModelConfig
from megatron_octo.model.fused.matmul import quack
from megatron_octo.model.fused.matmul.matmul_backend import Arithmetic, EmulatedFp8
from megatron_octo.model.platform.mcore import using_transformer_engine


def arithmetic_of(model: ModelConfig, compute: Compute, device: torch.device) -> Arithmetic:
    """Choose the matrix products of the linear layers.

    Raises:
        OctoError: fp8, or the kernels that the recipe names, do not run on this device.
    """
    exact = model.activation == "gelu"
    if compute.fp8 == "none":
        return _unrounded(model, compute, device, exact)
    if device.type == "cpu":
        return EmulatedFp8(exact)
    if not using_transformer_engine():
        problem = "on a GPU it needs Transformer Engine"
    else:
        from transformer_engine.pytorch.quantization import is_fp8_available

        _, problem = is_fp8_available(return_reason=True)
    if problem:
        raise OctoError(f"no fp8: {problem}", where="train.fp8", hint="use none")
    from megatron_octo.model.fused.matmul.fp8 import Fp8

    return Fp8(exact)


def _unrounded(model: ModelConfig, compute: Compute, device: torch.device, exact: bool) -> Arithmetic:
    wanted = compute.mlp
    if device.type == "cpu":
        if wanted == "quack":
            raise OctoError("QuACK needs a GPU", where="system.mlp", hint="use auto")
        return Arithmetic(exact)
    if wanted == "plain" or (wanted == "auto" and not quack.LIBRARY.installed):
        return Arithmetic(exact)
    why_not = quack.why_not(model, compute)
    if not why_not:
        return quack.QuackArithmetic(exact)
    if wanted == "quack":
        raise OctoError(f"no QuACK: {why_not}", where="system.mlp", hint="use auto")
    return Arithmetic(exact, f"not QuACK's: {why_not}")
