"""Describes a directory of weights from its headers alone."""

from pathlib import Path
from typing import Any

from megatron_octo.architectures import find_architecture
from megatron_octo.architectures.parameters import count_parameters, parameter_specs
from megatron_octo.checkpoint.source import Source
from megatron_octo.common.terminal import printable
from megatron_octo.conversion.readers.open_weights import open_weights


def describe(path: str | Path, vocab_size: int | None = None, tensors: bool = False) -> dict[str, Any]:
    """Return facts about weights of any format as JSON values.

    Args:
        path: as in :func:`open_weights`.
        vocab_size: real tokens of a BigCode checkpoint.
        tensors: also list every tensor with its dtype, its shape and its files.

    Raises:
        OctoError: there are no weights, or they are damaged.
    """
    source = open_weights(path, vocab_size=vocab_size)
    manifest, model = source.manifest, source.manifest.model
    found: dict[str, Any] = {
        "format": source.format,
        "directory": str(source.directory),
        "architecture": find_architecture(model.architecture).hf_class,
        "parameters": count_parameters(model),
        "parameters_with_padding": count_parameters(model, padded=True),
        "dtype": manifest.precision,
        "step": manifest.step,
        "layout": manifest.layout,
        "kinds": {kind: len(entries) for kind, entries in manifest.tensors.items()},
        "files": {name: _size(source, name) for name in sorted(manifest.files)},
        "tokenizer": manifest.tokenizer,
        "model": model.model_dump(),
        "provenance": manifest.provenance,
    }
    if tensors:
        found["tensors"] = {
            name: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "files": sorted({fragment.file for fragment in entry.fragments}),
            }
            for name, entry in ((name, manifest.tensors["weights"][name]) for name in parameter_specs(model))
        }
    return found


def _size(source: Source, name: str) -> int | None:
    path = source.path_of(name)
    return path.stat().st_size if path.is_file() else None


def lines(found: dict[str, Any]) -> list[str]:
    """Return the facts as lines of text."""
    parallel = " x ".join(f"{name} {size}" for name, size in found["layout"].items()) or "-"
    padded = found["parameters_with_padding"]
    count = f"{found['parameters']:,}"
    if padded != found["parameters"]:
        count += f" ({padded:,} with the padding of the vocabulary)"
    rows = {
        "directory": found["directory"],
        "format": found["format"],
        "architecture": found["architecture"],
        "parameters": count,
        "dtype": found["dtype"],
        "step": found["step"],
        "layout": parallel,
        "tensors": ", ".join(f"{kind} {number}" for kind, number in found["kinds"].items()),
        "tokenizer": found["tokenizer"] or "-",
    }
    text = [f"{key:13}{value}" for key, value in rows.items()]
    text += ["model:"] + [f"  {key:26}{value}" for key, value in found["model"].items()]
    text += ["provenance:"] + [f"  {key:26}{value}" for key, value in found["provenance"].items()]
    text += ["files:"]
    for name, size in found["files"].items():
        text.append(f"  {size:>15,}  {name}" if size is not None else f"  {'MISSING':>15}  {name}")
    for name, tensor in found.get("tensors", {}).items():
        text.append(f"  {name}  {tensor['dtype']} {tensor['shape']}  {', '.join(tensor['files'])}")
    return [printable(line) for line in text]
