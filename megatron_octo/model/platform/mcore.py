"""Brings in megatron.core: quietly, quickly, and in a form that runs without a GPU."""

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
    # Megatron-core imports it wherever it is installed: half a second and two directories, for what we do not use.
    hidden = {} if "wandb" in sys.modules else {"wandb": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its fallbacks are what we choose; the run prints what it uses
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
    # Torch's new names for collectives are not in the older versions that we and megatron-core run on, too.
    warnings.filterwarnings(
        "ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning
    )
    if not torch.cuda.is_available():
        from megatron_octo.model.platform.cpu import install

        install()
        # The optimizer asks views of parameters for their gradient; on a GPU torch says nothing about it.
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    _loaded = True


def _identity(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    return function if function is not None else lambda wrapped: wrapped


def using_transformer_engine() -> bool:
    """Whether Transformer Engine can be imported, and so is what megatron-core's optimizer uses."""
    if not torch.cuda.is_available():
        return False
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        return False
    return True
