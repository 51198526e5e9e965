"""Models to generate with: a Hugging Face directory, a run, or a checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_octo.checkpoint.directory import MANIFEST, WEIGHTS, find_checkpoint
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_bytes, digest_json
from megatron_octo.conversion.writers.renew import renew
from megatron_octo.conversion.writers.to_hf import to_hf

_EDGE = 1 << 20  # bytes at both ends of a weights file that go into the digest


@dataclass(frozen=True)
class OpenModel:
    """A model on a device with its tokenizer.

    Attributes:
        end_ids: tokens that end an answer.
        longest: positions that it was made for; None: no limit.
    """

    network: Any
    tokenizer: Any
    device: str
    end_ids: tuple[int, ...]
    longest: int | None


def hugging_face_directory(path: Path, exports: Path) -> Path:
    """Return a directory that transformers can open; a run or checkpoint is exported below ``exports``.

    Raises:
        OctoError: it is none of the three.
    """
    if (path / "config.json").is_file():
        return path
    if not path.is_dir():
        raise OctoError("no such directory", where=path, hint="a Hugging Face directory, a run, or a checkpoint")
    source = path
    if not (path / MANIFEST).is_file() and not (path / "checkpoints").is_dir() and (path / WEIGHTS).is_dir():
        source = path / WEIGHTS
    checkpoint = find_checkpoint(source)
    target = exports / digest_json(str(checkpoint.resolve())).rpartition(":")[2][:16]
    target.parent.mkdir(parents=True, exist_ok=True)
    renew(checkpoint, target, lambda folder: _export(checkpoint, folder), {})
    return target


def _export(checkpoint: Path, folder: Path) -> None:
    to_hf(checkpoint, folder)


def model_digest(folder: Path) -> str:
    """Return a digest of a Hugging Face directory: of its small files, and of sizes and both ends of its weights."""
    parts: list[tuple[str, int, str]] = []
    for path in sorted(folder.iterdir()):
        if not path.is_file() or (path.suffix in (".md", ".txt", ".json") and path.name == "conversion.json"):
            continue
        size = path.stat().st_size
        with open(path, "rb") as file:
            if size <= 2 * _EDGE:
                found = digest_bytes(file.read())
            else:
                first = file.read(_EDGE)
                file.seek(-_EDGE, 2)
                found = digest_bytes(first, file.read())
        if path.suffix != ".md":
            parts.append((path.name, size, found))
    return digest_json(parts)


def open_model(folder: Path, device: str, precision: str | None) -> OpenModel:
    """Load a model with transformers; no code of the directory runs.

    Args:
        folder: of :func:`hugging_face_directory`.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``bf16``, ``fp16`` or ``fp32``; None: bf16 on a GPU, fp32 on a CPU.

    Raises:
        OctoError: transformers cannot open it, or it is no causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    dtype = kinds[precision or ("fp32" if device == "cpu" else "bf16")]
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise OctoError("an encoder-decoder model", where=folder, hint="causal language models are evaluated")
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        network = network.to(device).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise OctoError(f"transformers cannot open it: {str(error).splitlines()[0]}", where=folder) from None
    ends = {tokenizer.eos_token_id}
    for found in (network.generation_config.eos_token_id, config.eos_token_id):
        ends.update(found if isinstance(found, list) else [found])
    longest = getattr(config, "max_position_embeddings", None)
    return OpenModel(network, tokenizer, device, tuple(sorted(ends - {None})), longest)
