"""Writes weights of any format as a checkpoint of any tensor x pipeline layout: from-hf, from-bigcode, reshard."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from megatron_octo.architectures.parameters import ParameterSpec, parameter_specs, stage_of
from megatron_octo.checkpoint import directory as checkpoints
from megatron_octo.checkpoint.digest import FileRecord
from megatron_octo.checkpoint.directory import Fragment, TensorEntry
from megatron_octo.checkpoint.source import Source
from megatron_octo.checkpoint.tensor_writer import SafetensorsWriter
from megatron_octo.common.errors import OctoError
from megatron_octo.common.torch_dtypes import DTYPE_NAMES, DTYPES
from megatron_octo.config.layout import Layout
from megatron_octo.config.model import ModelConfig
from megatron_octo.conversion.engine.block_copy import Box, Group, PlannedFile, PlannedTensor
from megatron_octo.conversion.engine.direct_file import DirectFile
from megatron_octo.conversion.engine.job import SHARD_BYTES, Progress, convert, silent
from megatron_octo.conversion.engine.rounding import Rounding


def write_checkpoint(
    source: Source,
    output: str | Path,
    *,
    tensor: int = 1,
    pipeline: int = 1,
    dtype: str | None = None,
    optimizer: bool = True,
    progress: Progress = silent,
    shard_bytes: int = SHARD_BYTES,
) -> Rounding:
    """Write ``output`` as a checkpoint for ``checkpoint.init_from`` and every command that takes one.

    ``tensor`` and ``pipeline`` are sizes of the parallel layout; any other layout reads it, too. ``dtype`` (fp32, bf16
    or fp16) is for the weights, by default their own; the optimizer's state, if there is one and ``optimizer`` is set,
    stays in fp32.

    Returns:
        The differences that the change of dtype made.

    Raises:
        OctoError: see :func:`megatron_octo.conversion.engine.job.convert`; or the layout does not divide the model.
    """
    model = source.manifest.model
    layout = Layout(tensor, pipeline)
    check_layout(model, layout, source.directory)
    states = tuple(kind for kind in source.manifest.tensors if kind != "weights") if optimizer else ()
    moments = tuple(kind for kind in states if kind != "main")
    own = dtype in (None, source.manifest.precision)
    rounded = bool(states) and own and source.manifest.weights_are_rounded
    plan = [  # beginning of the files' names, kinds in them, dtype
        *([] if rounded else [("weights", ("weights",), DTYPES[dtype] if dtype else None)]),
        *([("main", ("main",), None)] if "main" in states else []),
        *([("optimizer", moments, None)] if moments else []),
    ]
    groups = [group for part in plan for group in _groups(source, *part, layout, shard_bytes)]

    def finish(directory: Path, files: Mapping[str, FileRecord]) -> None:
        tokenizer = source.manifest.tokenizer
        source.check_text()
        if source.tokenizer and tokenizer:
            shutil.copyfile(source.tokenizer, directory / "tokenizer.json")
        for name, path in source.text_files.items():
            shutil.copyfile(path, directory / name)
        entries = _entries(source, groups)
        if rounded:
            entries["weights"] = {
                name: replace(entry, dtype=source.manifest.tensors["weights"][name].dtype)
                for name, entry in entries["main"].items()
            }
        stored = next(iter(entries["weights"].values())).dtype
        precision = next(name for name, each in DTYPES.items() if DTYPE_NAMES[each] == stored)
        manifest = replace(
            source.manifest,
            precision=precision,
            files={file.name: files[file.name] for group in groups for file in group},
            tensors=entries,
            layout=layout.sizes(),
            state=source.manifest.state if states else {},
            provenance=_provenance(source),
        )
        checkpoints.write_manifest(directory, manifest)

    return convert(
        source,
        output,
        groups,
        partial(SafetensorsWriter, open_file=DirectFile),
        finish,
        options={"to": "checkpoint", "provenance": _provenance(source)},
        kinds=("weights", *states),
        progress=progress,
    )


def check_layout(model: ModelConfig, layout: Layout, where: Path) -> None:
    """Check that tensor and pipeline parallelism divide the model.

    Raises:
        OctoError: one does not.
    """
    tensor = layout.tensor
    if model.num_layers % layout.pipeline:
        raise OctoError(f"pipeline {layout.pipeline} does not divide {model.num_layers} layers", where=where)
    for spec in parameter_specs(model).values():
        if spec.axis is not None and spec.shape[spec.axis] % (tensor * spec.parts):
            raise OctoError(f"tensor {tensor} does not divide {spec.name} {list(spec.shape)}", where=where)


def _provenance(source: Source) -> dict[str, object]:
    if source.format != "checkpoint":
        return source.manifest.provenance
    return {**source.manifest.provenance, "reshard": str(source.directory.absolute())}


def box_of(
    spec: ParameterSpec, kind: str, offset: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[Box, tuple[int, ...]]:
    """Return a box of a tensor as rows and columns, and its shape."""
    columns = (offset[1], offset[1] + shape[1]) if len(shape) > 1 else (0, 1)
    return Box(spec.name, kind, (offset[0], offset[0] + shape[0]), columns), shape


def _groups(
    source: Source,
    base: str,
    kinds: tuple[str, ...],
    dtype: torch.dtype | None,
    layout: Layout,
    shard_bytes: int,
) -> Iterator[Group]:
    """Yield each stage's tensors in the order of the network, in parts of at most ``shard_bytes`` over all ranks.

    ``base`` is the beginning of the files' names.
    """
    model = source.manifest.model
    for stage in range(layout.pipeline):
        specs = [spec for spec in parameter_specs(model).values() if stage_of(spec.name, model, layout) == stage]
        parts = list(_parts(source, specs, kinds, dtype, shard_bytes))
        for number, part in enumerate(parts):
            suffix = f"-{number:03d}" if len(parts) > 1 else ""
            files = []
            for rank in range(layout.tensor):
                planned = [
                    tensor
                    for spec in part
                    for kind in kinds
                    if spec.name in source.manifest.tensors[kind] and (spec.axis is not None or rank == 0)
                    for tensor in _planned(source, spec, kind, dtype, rank, layout.tensor)
                ]
                if planned:
                    name = f"{base}-tp{rank:02d}-pp{stage:02d}{suffix}.safetensors"
                    files.append(PlannedFile(name, tuple(planned)))
            yield tuple(files)


def _parts(
    source: Source,
    specs: list[ParameterSpec],
    kinds: tuple[str, ...],
    dtype: torch.dtype | None,
    limit: int,
) -> Iterator[list[ParameterSpec]]:
    part: list[ParameterSpec] = []
    size = 0
    for spec in specs:
        count = torch.Size(spec.shape).numel()
        bytes_ = sum(
            count * (dtype or source.written_dtype(spec.name, kind)).itemsize
            for kind in kinds
            if spec.name in source.manifest.tensors[kind]
        )
        if part and size + bytes_ > limit:
            yield part
            part, size = [], 0
        part.append(spec)
        size += bytes_
    yield part


def _planned(
    source: Source, spec: ParameterSpec, kind: str, dtype: torch.dtype | None, rank: int, size: int
) -> Iterator[PlannedTensor]:
    key = spec.name if kind == "weights" else f"{kind}/{spec.name}"
    boxes = spec.boxes(rank, size)
    for number, place in enumerate(boxes):
        box, shape = box_of(spec, kind, *place)
        part = f"/{number}" if len(boxes) > 1 else ""
        yield PlannedTensor(key + part, dtype or source.written_dtype(spec.name, kind), shape, (box,))


def _entries(source: Source, groups: Sequence[Group]) -> dict[str, dict[str, TensorEntry]]:
    """Return the place of each tensor of the result."""
    specs = parameter_specs(source.manifest.model)
    found: dict[str, dict[str, TensorEntry]] = {}
    for file in (file for group in groups for file in group):
        for planned in file.tensors:
            (box,) = planned.boxes
            offset = (box.rows[0], box.columns[0])[: len(planned.shape)]
            entries = found.setdefault(box.kind, {})
            before = entries[box.name].fragments if box.name in entries else ()
            fragment = Fragment(file.name, planned.key, offset, planned.shape)
            entries[box.name] = TensorEntry(specs[box.name].shape, DTYPE_NAMES[planned.dtype], (*before, fragment))
    return found
