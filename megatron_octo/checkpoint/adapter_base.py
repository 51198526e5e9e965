"""Checkpoints of adapters (LoRA): they hold what was trained and name the base, which they do not hold again.

``state.base`` of their manifest is ``{"path": ..., "digest": ...}``. The digest is of the base's weights, so the base
may move, and may not change.
"""

import dataclasses
from pathlib import Path

from megatron_octo.checkpoint.directory import Manifest, find_checkpoint, read_manifest
from megatron_octo.checkpoint.reader import CheckpointReader, WeightReader
from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json


def weights_digest(manifest: Manifest) -> str:
    """A digest of a checkpoint's weights: the digests of their files, and what is where in these."""
    entries = {name: dataclasses.asdict(entry) for name, entry in sorted(manifest.tensors["weights"].items())}
    names = {fragment["file"] for entry in entries.values() for fragment in entry["fragments"]}
    return digest_json({"tensors": entries, "files": {name: manifest.files[name] for name in sorted(names)}})


def base_record(reader: WeightReader) -> dict[str, str]:
    """What a checkpoint of adapters says about its base."""
    return {"path": str(reader.directory.absolute()), "digest": weights_digest(reader.manifest)}


def find_base(adapters: CheckpointReader, named: str | Path | None = None) -> Path:
    """The base of a checkpoint of adapters: where it was, or where it is said to be now.

    Args:
        named: a run or checkpoint to look at, too.

    Raises:
        OctoError: the base is at neither place, or is not what the adapters were trained on.
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
