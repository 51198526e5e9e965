"""Tells formats of weights apart, and reads the shape that a Hugging Face model declares. Imports no torch."""

import re
from pathlib import Path
from typing import Any

from megatron_octo.architectures import architectures, checked_model
from megatron_octo.checkpoint.directory import CHECKPOINTS, MANIFEST, candidates
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import read_json
from megatron_octo.config.model import ModelConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TRACKER = "latest_checkpointed_iteration.txt"  # of BigCode's fork
RANK = re.compile(r"^mp_rank_(\d{2,})(?:_(\d{3,}))?$")


def format_of(path: Path) -> str:
    """Return ``checkpoint``, ``huggingface`` or ``bigcode``.

    Raises:
        OctoError: none of them.
    """
    if not path.is_dir():
        raise OctoError("no such directory", where=path)
    if (path / MANIFEST).is_file() or (path / CHECKPOINTS).is_dir() or candidates(path):
        return "checkpoint"
    if (path / "config.json").is_file():
        return "huggingface"
    if is_bigcode(path):
        return "bigcode"
    raise OctoError(
        "no weights here",
        where=path,
        hint="expected a run, a checkpoint (manifest.json), a Hugging Face model (config.json), "
        "or a checkpoint of BigCode's Megatron-LM (latest_checkpointed_iteration.txt)",
    )


def is_bigcode(directory: Path) -> bool:
    """Return whether a directory looks like a checkpoint of BigCode's fork."""
    ranks = directory.glob("mp_rank_*")
    return (directory / TRACKER).is_file() or any(RANK.match(path.name) for path in ranks)


def read_hf_config(path: Path) -> ModelConfig:
    """Return the model that a ``config.json`` describes.

    Raises:
        OctoError: another architecture, or a variant that the library does not compute.
    """
    tree: Any = read_json(path)
    model_type = tree.get("model_type") if isinstance(tree, dict) else None
    known = architectures()
    if not isinstance(model_type, str) or model_type not in known:
        names = ", ".join(f"{name!r} ({each.models})" for name, each in known.items())
        raise OctoError(f"architecture {model_type!r}, expected one of {names}", where=path)
    try:
        return checked_model(known[model_type].model_section(tree))
    except KeyError as error:
        raise OctoError(f"missing key {error}", where=path) from None
    except (ValueError, TypeError) as error:
        raise OctoError(f"bad configuration: {error}", where=path) from None


def indexed_files(directory: Path) -> dict[str, str] | None:
    """Return tensor -> file as the index of a sharded model says; None if all tensors are in one file.

    Raises:
        OctoError: there are no safetensors, or the index is broken.
    """
    if (directory / SINGLE).is_file():  # transformers reads it first, whatever index lies beside it
        return None
    if (directory / INDEX).is_file():
        index: Any = read_json(directory / INDEX)
        found = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(found, dict) or not all(map(_is_file_name, found.values())):
            raise OctoError("no weight_map of file names", where=directory / INDEX)
        return found
    raise OctoError(
        f"neither {SINGLE} nor {INDEX}",
        where=directory,
        hint="save the model with transformers' save_pretrained (safetensors is its default)",
    )


def _is_file_name(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) < 256 and text.isprintable() and Path(text).name == text
