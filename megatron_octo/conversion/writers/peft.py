"""Writes a run's adapters as the directory that the ``peft`` library loads beside the base model.

Format: ``adapter_config.json`` and ``adapter_model.safetensors`` with tensors
``base_model.model.<module>.lora_A.weight`` [rank, in] and ``.lora_B.weight`` [out, rank], peft 0.6 and later.
"""

import json
from pathlib import Path

import torch

from megatron_octo.architectures import adapted_modules, find_architecture
from megatron_octo.architectures.adapters import adapter_specs
from megatron_octo.architectures.parameters import parameter_specs
from megatron_octo.checkpoint.adapter_base import find_base
from megatron_octo.checkpoint.directory import Manifest, find_checkpoint, read_manifest
from megatron_octo.checkpoint.reader import CheckpointReader
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import atomic_directory
from megatron_octo.config.model import LoraConfig
from megatron_octo.conversion.engine.conversion_record import is_result, write_record

_WEIGHTS = "adapter_model.safetensors"


def to_peft(source: str | Path, output: str | Path, *, base_name: str | None = None, reuse: bool = False) -> Path:
    """Write ``output`` so that ``PeftModel.from_pretrained(base, output)`` is the trained network.

    A Hugging Face tensor that holds some rows of one of our weights (the queries, say) gets the same rows of B, and
    A whole.

    Args:
        source: a LoRA run, or one of its checkpoints.
        output: directory to make.
        base_name: name of the base for peft; by default the directory that the base was converted from, or its own.
        reuse: leave an ``output`` of the same adapters and options as it is.

    Returns:
        The checkpoint that was converted.

    Raises:
        OctoError: no checkpoint, one without adapters, a damaged one, or ``output`` exists.
    """
    checkpoint = find_checkpoint(source)
    reader = CheckpointReader(checkpoint)
    model, lora = reader.manifest.model, reader.manifest.lora
    if lora is None:
        raise OctoError(
            "this checkpoint holds whole weights, no adapters", where=checkpoint, hint="leave --adapter out"
        )
    config = _config(lora, _targets(reader.manifest, lora), base_name or _base_name(reader))
    job = {"to": "peft", "manifest": reader.manifest.to_json(), "config": config}
    if reuse and is_result(Path(output), job):
        return checkpoint
    architecture, weights = find_architecture(model.architecture), parameter_specs(model)
    tensors: dict[str, torch.Tensor] = {}
    for name, pair in adapter_specs(model, lora).items():
        a, b = reader.read(pair.a.name), reader.read(pair.b.name)
        for theirs in architecture.split(weights[name], model):
            module = f"base_model.model.{theirs.name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = a
            rows = [b[part.start : part.stop] for part in theirs.rows]
            tensors[f"{module}.lora_B.weight"] = torch.cat(rows)
    reader.finish()
    with atomic_directory(output) as directory:
        specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        with SafetensorsWriter(directory / _WEIGHTS, specs, {"format": "pt"}) as writer:
            for name, tensor in tensors.items():
                writer.write(name, tensor)
            record = writer.close()
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        provenance = {**reader.manifest.provenance, "adapters": str(checkpoint.absolute())}
        write_record(directory, {_WEIGHTS: record}, provenance, job)
    return checkpoint


def _targets(manifest: Manifest, lora: LoraConfig) -> list[str]:
    """Return adapted modules by the ends of their names: ``attn.c_proj`` and ``mlp.c_proj`` differ."""
    linear = find_architecture(manifest.model.architecture).linear_modules(manifest.model)
    return [".".join(name.split(".")[-2:]) for ours in adapted_modules(manifest.model, lora) for name in linear[ours]]


def _base_name(reader: CheckpointReader) -> str:
    try:
        path = find_base(reader)
    except OctoError:  # peft takes the base from its caller, and this name only as a default
        return str(reader.manifest.state["base"]["path"])
    return str(read_manifest(path).provenance.get("from_hf", path))


def _config(lora: LoraConfig, targets: list[str], base_name: str) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
