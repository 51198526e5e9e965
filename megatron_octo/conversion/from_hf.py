"""A Hugging Face model directory -> weights that ``checkpoint.init_from`` takes."""

from pathlib import Path

from megatron_octo.config import ModelConfig
from megatron_octo.conversion.hf_source import open_hf
from megatron_octo.conversion.job import Progress, silent
from megatron_octo.conversion.to_checkpoint import write_checkpoint
from megatron_octo.errors import OctoError


def from_hf(
    source: str | Path,
    output: str | Path,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    dtype: str | None = None,
    progress: Progress = silent,
) -> ModelConfig:
    """Write ``output`` as a checkpoint of weights alone.

    Args:
        tensor, pipeline, dtype: see :func:`megatron_octo.conversion.to_checkpoint.write_checkpoint`.

    Returns:
        The model's shape, as a recipe's ``model`` section wants it.

    Raises:
        OctoError: no model, another architecture, missing or unexpected tensors, or ``output`` exists.
    """
    if not Path(source).is_dir():
        raise OctoError("no such directory", where=source)
    opened = open_hf(Path(source), stream=True)
    write_checkpoint(opened, output, tensor=tensor, pipeline=pipeline, dtype=dtype, progress=progress)
    return opened.manifest.model
