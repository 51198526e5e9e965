"""Checkpoints of adapters (LoRA): they hold the trained tensors and name the base.

``state.base`` of their manifest is ``{"path": ..., "digest": ...}``. The digest is of the base's weights: the base may
move, but not change.
"""

import dataclasses
from pathlib import Path

from megatron_octo.checkpoint.directory import Manifest, find_checkpoint, read_manifest
from megatron_octo.checkpoint.source import Source
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json


def weights_digest(manifest: Manifest) -> str:
    """Return a digest of a checkpoint's weights: of their files' digests and their places in these."""
    entries = {name: dataclasses.asdict(entry) for name, entry in sorted(manifest.tensors["weights"].items())}
    names = {fragment["file"] for entry in entries.values() for fragment in entry["fragments"]}
    return digest_json({"tensors": entries, "files": {name: manifest.files[name] for name in sorted(names)}})


def base_record(reader: Source) -> dict[str, str]:
    """Return the record of the base for a checkpoint of adapters."""
    return {"path": str(reader.directory.absolute()), "digest": weights_digest(reader.manifest)}


def find_base(adapters: Source, named: str | Path | None = None) -> Path:
    """Return the base of a checkpoint of adapters: at its recorded place, or at ``named`` (a run or checkpoint).

    Raises:
        OctoError: the base is at neither place, or has changed since the adapters were trained.
    """
    record = adapters.manifest.state["base"]
    seen = []
    for place in (record["path"], *([named] if named else [])):
        try:
            path = find_checkpoint(place)
            if weights_digest(read_manifest(path)) == record["digest"]:
                return path
            seen.append(f"{path} holds other weights")
        except OctoError as error:
            seen.append(f"{place}: {error.what}")
    raise OctoError(
        "the weights that these adapters were trained on are not here: " + "; ".join(seen),
        where=adapters.directory,
        hint="restore them, or name their new place: checkpoint.init_from in training, --base-weights in conversion",
    )
