"""Imports megatron.core without its warnings and its compilation, in a form that runs without a GPU."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

_loaded = False


def load_mcore() -> None:
    """Import megatron.core once; call it before any ``from megatron.core import ...``.

    Megatron-core compiles its fused functions at import. Without a GPU that costs seconds at import and a minute at
    the first step for nothing, so there torch.compile is the identity while it is imported.
    """
    global _loaded
    if _loaded:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compile_function = torch.compile
    # Megatron-core imports wandb if it is installed, which costs half a second and creates two directories.
    hidden = {} if "wandb" in sys.modules else {"wandb": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fallbacks that are chosen here; the run prints what it uses
        if not torch.cuda.is_available():
            torch.compile = _identity  # type: ignore[assignment]
        try:
            import megatron.core
            import megatron.core.models.gpt  # noqa: F401
        finally:
            torch.compile = compile_function
            for name in hidden:
                del sys.modules[name]
    logging.getLogger("megatron.core").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"megatron\.core")
    # Older supported versions of torch do not have the new names of collectives.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    if not torch.cuda.is_available():
        from megatron_octo.model.platform.cpu import install

        install()
        # The optimizer reads the gradient of views of parameters; torch warns of it only on a CPU.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    _loaded = True


def _identity(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    return function if function is not None else lambda wrapped: wrapped


def using_transformer_engine() -> bool:
    """Return whether Transformer Engine can be imported; megatron-core's optimizer then uses it."""
    if not torch.cuda.is_available():
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        return False
    return True
